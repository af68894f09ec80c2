"""Parameters declared once: checks, options, names."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Annotated, Literal

import pytest
from pydantic import Field, model_validator

from selfpatch.pretrain.cli import UserError
from selfpatch.pretrain.settings import Settings, add_options, arguments, as_json, changed, check, from_options


class Base(Settings):
    k: int = Field(20, ge=1, description="how many vote")
    shares: tuple[Annotated[float, Field(ge=0, le=1)], ...] = Field((1.0,), description="in % of all")
    mean: tuple[float, float, float] = Field((0.5, 0.5, 0.5), description="of a pixel")


class Example(Base):
    kind: Literal["a", "b"] = Field("a", description="which")
    decay: float | None = Field(None, gt=0, description="weight decay")
    rate: float = Field(0.1, ge=0, lt=1, description="dropped")
    flip: bool = Field(False, description="flip")
    data: Path = Field(Path("here"), description="folder")
    hidden: bool | str = False

    @model_validator(mode="after")
    def _together(self) -> Example:
        if self.k == 13:
            raise UserError("13 together with anything is refused")
        return self


@pytest.mark.parametrize(
    ("values", "line"),
    [
        ({"k": 0}, "model.k=0: must be 1 or more"),
        ({"k": True}, "model.k=True: expected a whole number"),
        ({"k": 1.0}, "model.k=1.0: expected a whole number"),
        ({"kk": 1}, "unknown config key model.kk: did you mean model.k?"),
        (
            {"zebra": 1},
            "unknown config key model.zebra: known are k, shares, mean, kind, decay, rate, flip, data, hidden",
        ),
        ({"shares": [0.5, 2]}, "model.shares=[0.5, 2]: must be from 0 to 1"),
        ({"shares": ["x"]}, "model.shares=['x']: expected numbers in brackets, as in [0.5,1]"),
        ({"mean": [1, 2]}, "model.mean=[1, 2]: expected 3 numbers in brackets, as in [0.5,1]"),
        ({"mean": 3}, "model.mean=3: expected 3 numbers in brackets, as in [0.5,1]"),
        ({"kind": "c"}, "model.kind='c': choose a or b"),
        ({"decay": 0}, "model.decay=0: must be above 0"),
        ({"decay": "x"}, "model.decay='x': expected a number or None"),
        ({"decay": float("inf")}, "model.decay=inf: must be finite"),
        ({"rate": 1}, "model.rate=1: must be from 0 to below 1"),
        ({"rate": True}, "model.rate=True: expected a number"),
        ({"flip": 1}, "model.flip=1: expected True or False"),
        ({"hidden": 3}, "model.hidden=3: expected True or False or a name"),
        ({"k": 13}, "13 together with anything is refused"),
        (3, "model=3: expected several keys (k, shares, mean, kind, decay, rate, flip, data, hidden)"),
    ],
)
def test_a_value_that_cannot_be_meant_is_refused_in_one_line(values, line) -> None:
    with pytest.raises(UserError) as caught:
        check(Example, values, "model.")
    assert str(caught.value) == line


def test_lists_pass_for_tuples_texts_for_paths_whole_numbers_for_numbers() -> None:
    settings = check(Example, {"shares": [0, 1], "data": "there", "decay": 1, "hidden": "max"})
    assert (settings.shares, settings.data, settings.decay) == ((0.0, 1.0), Path("there"), 1.0)
    assert type(settings.decay) is float
    with pytest.raises(ValueError, match="frozen"):
        settings.k = 3


def test_arguments_of_a_callable_are_settings() -> None:
    class Method:
        def __init__(
            self, images, backbone: dict, *, k: Annotated[int, Field(ge=1)] = 4, scale: float = 1.0
        ) -> None: ...

    model = arguments(Method, skip=["images"])
    assert check(model, {"backbone": {}}).k == 4
    for values, line in (
        ({"backbone": {}, "k": 0}, "k=0: must be 1 or more"),
        ({}, "there is no config key backbone: it must be given"),
        ({"backbone": {}, "images": 1}, "unknown config key images: known are backbone, k, scale"),
        ({"backbone": 1}, "backbone=1: expected several keys"),
    ):
        with pytest.raises(UserError) as caught:
            check(model, values)
        assert str(caught.value) == line


def parsed(*words: str) -> Example:
    parser = argparse.ArgumentParser()
    add_options(parser, Example)
    return from_options(Example, parser.parse_args(words))


def test_options_come_from_the_fields() -> None:
    parser = argparse.ArgumentParser(prog="x")
    add_options(parser, Example)
    shown = " ".join(parser.format_help().split())
    for line in ("--k X how many vote [20]", "--shares X in % of all [1]", "--kind {a,b} which [a]", "--no-flip"):
        assert line in shown
    assert "hidden" not in shown
    settings = parsed("--k", "7", "--shares", "0,.5", "--decay", "1e-3", "--flip", "--data", "there")
    assert settings == Example(k=7, shares=(0.0, 0.5), decay=1e-3, flip=True, data=Path("there"))
    assert settings.model_fields_set == {"k", "shares", "decay", "flip", "data"}


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ("--k 0", "--k 0: must be 1 or more"),
        ("--k 2.5", "--k 2.5: expected a whole number"),
        ("--kind c", "--kind c: choose a or b"),
        ("--mean 1,2", "--mean 1,2: expected 3 numbers with commas, as in 0.5,1"),
        ("--shares 0,2", "--shares 0,2: must be from 0 to 1"),
    ],
)
def test_an_impossible_option_is_named_as_it_was_typed(words, line) -> None:
    with pytest.raises(UserError) as caught:
        parsed(*words.split())
    assert str(caught.value) == line


def test_what_departs_from_the_default_is_named_and_all_is_recorded() -> None:
    settings = Example(k=5, mean=(0.0, 0.25, 1.0), decay=2e-5)
    assert changed(settings, Base) == "+k=5+mean=0,0.25,1"
    assert changed(settings, Example) == "+k=5+mean=0,0.25,1+decay=2e-05"
    assert changed(settings, settings) == ""
    assert as_json(settings, Base) == {"k": 5, "shares": [1.0], "mean": [0.0, 0.25, 1.0]}
    assert as_json(settings)["data"] == "here"
