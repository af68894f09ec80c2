"""Parameters, declared once: a field's type, default, range and help become check, command-line option and name.

    class Vote(Settings):
        k: int = Field(20, ge=1, description="how many neighbours vote")

From this come ``--k`` with its help (:func:`add_options`, :func:`from_options`), the check of a config or of a keyword
argument (:func:`check`), the suffix ``+k=5`` of a protocol's name (:func:`changed`) and what a record holds
(:func:`as_json`). What a callable takes is checked in the same way: :func:`arguments`.
"""

import argparse
import difflib
import inspect
import types
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, create_model, field_validator
from pydantic.fields import FieldInfo

from selfpatch.pretrain.cli import UserError

WORDS = {bool: "True or False", int: "a whole number", float: "a number", str: "a name", Path: "a path"}
PLURALS = {int: "whole numbers", float: "numbers", str: "names"}
LIMITS = ("ge", "gt", "le", "lt")  # names of pydantic's limits, and of the attributes that hold them
UNIONS = (Union, types.UnionType)


class Settings(BaseModel):
    """A frozen set of parameters. Lists pass for tuples, texts for paths, whole numbers for numbers; True is no number.

    A class may add a check of several fields together: a method under ``@model_validator(mode="after")`` that raises
    :class:`UserError`.
    """

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        strict=True,
        allow_inf_nan=False,
        arbitrary_types_allowed=True,
        protected_namespaces=(),
    )

    @field_validator("*", mode="before")
    @classmethod
    def _convert(cls, value: Any, info: ValidationInfo) -> Any:
        if isinstance(value, list):
            return tuple(value)
        is_path = isinstance(value, str) and Path in _parts(cls.model_fields[info.field_name].annotation)
        return Path(value) if is_path else value


Count = Annotated[int, Field(ge=1)]
Natural = Annotated[int, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Rate = Annotated[float, Field(ge=0, lt=1)]

Model = TypeVar("Model", bound=Settings)


def check(model_class: type[Model], values: Mapping[str, Any], prefix: str = "", what: str = "config key") -> Model:
    """The settings that ``values`` give.

    Args:
        prefix: what a user writes before the names, such as "model.".
        what: what a user calls one of them.

    Raises:
        UserError: the first that is unknown, missing or impossible, in one line.
    """
    if not isinstance(values, Mapping):
        keys = ", ".join(model_class.model_fields)
        raise UserError(f"{prefix.rstrip('.')}={values!r}: expected several keys ({keys})")
    return _validated(model_class, values, what, prefix)


def arguments(called: Callable, skip: Sequence[str] = ()) -> type[Settings]:
    """The settings that a callable takes as keywords; a range is written ``k: Annotated[int, Field(ge=1)] = 4``.

    Args:
        called: a function, or a class with ``__init__``.
        skip: arguments that are not a user's to give.
    """
    hints = typing.get_type_hints(called.__init__ if inspect.isclass(called) else called, include_extras=True)
    fields = {
        name: (hints.get(name, Any), ... if parameter.default is parameter.empty else parameter.default)
        for name, parameter in inspect.signature(called).parameters.items()
        if name not in skip and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    }
    return create_model(f"{called.__name__}Arguments", __base__=Settings, **fields)


def optional(model_class: type[Settings], name: str) -> type[Settings]:
    """The fields of a class that are options, each None unless it is given: what may overrule a config."""
    fields = {
        key: (_hint(field) | None, Field(None, description=field.description))
        for key, field in model_class.model_fields.items()
        if field.description is not None
    }
    return create_model(name, __base__=Settings, __doc__=f"What may overrule a {model_class.__name__}.", **fields)


def add_options(parser: argparse._ActionsContainer, settings_class: type[Settings]) -> None:
    """Add an option for every field that has a description; :func:`from_options` reads what was given."""
    for name, field in settings_class.model_fields.items():
        if field.description is None:
            continue
        shown = "" if field.is_required() or field.default in (None, False, ()) else f" [{_text(field.default)}]"
        options = {"default": argparse.SUPPRESS, "help": (field.description + shown).replace("%", "%%")}
        kinds = list(_parts(field.annotation))
        if bool in kinds and str not in kinds:
            options["action"] = argparse.BooleanOptionalAction
        else:
            choices = _choices(field.annotation)
            several = tuple in map(get_origin, kinds)
            options["metavar"] = f"{{{','.join(choices)}}}" if choices else "DIR" if Path in kinds else "X"
            options["type"] = (lambda text: tuple(filter(None, text.split(",")))) if several else str
        parser.add_argument(option(name), **options)


def from_options(settings_class: type[Model], namespace: argparse.Namespace) -> Model:
    """The settings that were given as options; ``model_fields_set`` of the result tells which.

    Raises:
        UserError: one of them is impossible.
    """
    values = {name: getattr(namespace, name) for name in settings_class.model_fields if hasattr(namespace, name)}
    return _validated(settings_class, values, "option", as_text=True)


def option(name: str) -> str:
    """The option of a field, as a user types it: ``--short-side``."""
    return "--" + name.replace("_", "-")


def changed(settings: Settings, default: Settings | type[Settings]) -> str:
    """What a protocol's name says of parameters that are not the default's: ``+topk=7+mean=0.5,0.5,0.5``.

    Args:
        settings: what is used.
        default: what it is compared with, by this one's fields; of a class, its defaults.
    """
    if isinstance(default, type):
        own = {name: field.default for name, field in default.model_fields.items()}
    else:
        own = {name: getattr(default, name) for name in type(default).model_fields}
    return "".join(
        f"+{name}={_text(getattr(settings, name))}" for name, value in own.items() if getattr(settings, name) != value
    )


def as_json(settings: Settings, fields_of: type[Settings] | None = None) -> dict[str, Any]:
    """All parameters, or those of one of its base classes, as a record holds them: tuples as lists, paths as texts."""
    return settings.model_dump(mode="json", include=set((fields_of or type(settings)).model_fields))


def _validated(
    model_class: type[Model], values: Mapping[str, Any], what: str, prefix: str = "", as_text: bool = False
) -> Model:
    """The settings, or a UserError that names the key as a user writes it: in a config, or ``as_text`` as an option."""
    try:
        return model_class.model_validate(dict(values), strict=not as_text)
    except ValidationError as error:
        order = ("extra_forbidden", "missing")  # a misspelt key is also missing: name it as the user wrote it
        first = min(error.errors(), key=lambda e: order.index(e["type"]) if e["type"] in order else len(order))

    def named(key: str) -> str:
        return option(key) if as_text else f"{prefix}{key}"

    if not first["loc"]:  # a check of several fields together
        raise UserError(str(first["ctx"]["error"]))
    key = str(first["loc"][0])
    if first["type"] == "extra_forbidden":
        known = list(model_class.model_fields)
        near = difflib.get_close_matches(key, known, n=1)
        hint = f"did you mean {named(near[0])}?" if near else f"known are {', '.join(known)}"
        raise UserError(f"unknown {what} {named(key)}: {hint}")
    if first["type"] == "missing" and len(first["loc"]) == 1:  # not a number of a tuple
        raise UserError(f"there is no {what} {named(key)}: it must be given")
    if first["type"] == "value_error":
        wanted = first["ctx"]["error"]
    else:
        wanted = _wanted(first, _hint(model_class.model_fields[key]), as_text)
    given = f" {_text(values[key])}" if as_text else f"={values[key]!r}"
    raise UserError(f"{named(key)}{given}: {wanted}")


def _hint(field: FieldInfo) -> Any:
    """A field's type with its limits."""
    return Annotated[(field.annotation, *field.metadata)] if field.metadata else field.annotation


def _wanted(error: Mapping[str, Any], hint: Any, as_text: bool) -> str:
    """What a value of the type ``hint`` must be, in words, where pydantic's ``error`` says that it is not."""
    limits = {name: getattr(part, name) for part in _parts(hint) for name in LIMITS if hasattr(part, name)}
    if error["type"].startswith(("greater_than", "less_than")):
        return f"must be {_range(**limits)}"
    if error["type"] == "finite_number":
        return "must be finite"
    if error["type"] == "literal_error":
        return f"choose {' or '.join(_choices(hint))}"
    if as_text:  # nobody types None
        return f"expected {words(hint, 'with commas, as in 0.5,1').removesuffix(' or None')}"
    return f"expected {words(hint)}"


def _range(ge: float | None = None, gt: float | None = None, le: float | None = None, lt: float | None = None) -> str:
    low = f"{ge:.12g} or more" if ge is not None else f"above {gt:.12g}" if gt is not None else ""
    high = f"at most {le:.12g}" if le is not None else f"below {lt:.12g}" if lt is not None else ""
    if ge is not None and high:
        return f"from {ge:.12g} to {le:.12g}" if le is not None else f"from {ge:.12g} to {high}"
    return " and ".join(part for part in (low, high) if part)


def words(hint: Any, several: str = "in brackets, as in [0.5,1]") -> str:
    """A type in words, such as "a whole number or None".

    Args:
        several: how a user writes more than one value.
    """
    if get_origin(hint) is Annotated:
        return words(get_args(hint)[0], several)
    if get_origin(hint) in UNIONS:
        return " or ".join(words(part, several) for part in get_args(hint))
    if get_origin(hint) is Literal:
        return " or ".join(map(str, get_args(hint)))
    if get_origin(hint) is tuple:
        kinds = [get_args(kind)[0] if get_origin(kind) is Annotated else kind for kind in get_args(hint)]
        count = "" if kinds[-1] is Ellipsis else f"{len(kinds)} "
        return f"{count}{PLURALS.get(kinds[0], 'values')} {several}"
    if hint is type(None):
        return "None"
    return WORDS.get(hint, "several keys" if hint is dict or get_origin(hint) is dict else "something else")


def _parts(hint: Any) -> Iterator[Any]:
    """A type and all that it is made of, ``Annotated``'s limits among them."""
    yield hint
    if get_origin(hint) is not Literal:
        for part in get_args(hint):
            yield from _parts(part)
    if isinstance(hint, FieldInfo):
        yield from hint.metadata


def _choices(hint: Any) -> list[str]:
    return [str(value) for part in _parts(hint) if get_origin(part) is Literal for value in get_args(part)]


def _text(value: Any) -> str:
    if isinstance(value, (tuple, list)):
        return ",".join(map(_text, value))
    return f"{value:.12g}" if isinstance(value, float) else str(value)
