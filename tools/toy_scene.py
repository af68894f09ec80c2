"""One scene of the toy world: things in two-coloured patterns that move, turn, bend and hide one another.

Six equally bright hues colour everything. A surface is known by which two of them lie beside each other in its pattern,
within a patch of 8 to 16 pixels and its neighbours: each hue colours one class of things and one of grounds, and no two
classes mix to the same colour. (While all things mixed to grey, what a patch shared with its neighbours was the hue of
the whole picture, and SelfPatch learned that.) Light that plays over the scene and noise change brightness alone, by
much more than the hues differ, so that raw pixels mislead. Patterns creep over their surfaces: no patch looks the same
for long.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import combinations

import numpy as np

HUES = ("red", "yellow", "green", "cyan", "blue", "magenta")  # round the circle
THING_CLASSES = ("yellow-green", "cyan-blue", "magenta-red")  # neighbours round the circle, as are
GROUND_CLASSES = ("red-yellow", "green-cyan", "blue-magenta")
Rng = np.random.Generator
Plane = np.ndarray  # (H, W) float32


@dataclass(frozen=True)
class World:
    """What the toy world is like; every field is a number that may be tuned (``--set NAME=VALUE``)."""

    things_min: int = 2
    things_max: int = 4
    size_min: float = 0.30  # diameter of a thing, as a share of the picture's short side
    size_max: float = 0.46
    wavelength_min: float = 8.0  # period of a pattern, pixels
    wavelength_max: float = 14.0
    chroma: float = 0.14  # how far colours lie from grey
    speed: float = 5.0  # top speed of a thing, pixels a frame
    turn: float = 0.06  # top rotation of a thing, radians a frame
    bend: float = 0.10  # deformation, as a share of the diameter
    creep: float = 1.0  # how fast a pattern moves over its surface, radians of its period a frame
    camera: float = 2.0  # top speed of the background, pixels a frame
    light: float = 0.45  # standard deviation of the light that plays over a scene, as a log gain
    flicker: float = 0.5  # how fast that light moves, radians of its waves a frame
    tint: float = 0.04  # by how much the light's colour comes and goes, as a log gain of each channel
    noise: float = 40.0  # standard deviation of the noise in brightness, grey levels


def generator(*address: int) -> Rng:
    """Random numbers that depend on their address alone, e.g. (seed, kind, index)."""
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(address)))


# --- surfaces ---------------------------------------------------------------------------------------------


def colour_of(hue: str, chroma: float) -> np.ndarray:
    """The RGB of a hue, (3,) in 0..1: ``chroma`` away from a middle grey, and as bright as all others."""
    angle = math.pi / 3 * HUES.index(hue)
    red, blue = math.cos(angle), -math.sin(angle)
    return 0.45 + chroma * np.array([red, -(0.299 * red + 0.114 * blue) / 0.587, blue], np.float32)  # luminance 0.45


@dataclass(frozen=True)
class Surface:
    """A pattern of two colours on an endless plane."""

    colours: np.ndarray  # (2, 3)
    pattern: str
    wave: float  # period, pixels
    angle: float
    phases: list[float]  # 2, radians
    creep: list[float]  # 2, radians a frame

    def at(self, x: Plane, y: Plane, t: float) -> np.ndarray:
        """Its colours (H, W, 3) at these places; half of them the one and half the other."""
        rate = 2 * math.pi / self.wave
        u = (math.cos(self.angle) * x + math.sin(self.angle) * y) * rate + self.creep[0] * t + self.phases[0]
        v = (math.cos(self.angle) * y - math.sin(self.angle) * x) * rate + self.creep[1] * t + self.phases[1]
        share = np.clip(0.5 + PATTERNS[self.pattern](u, v) * (self.wave / 6), 0, 1)[..., None]
        return self.colours[0] + (self.colours[1] - self.colours[0]) * share


PATTERNS = {  # positive where the second colour stands
    "striped": lambda u, v: np.sin(u),
    "checked": lambda u, v: 1.6 * np.sin(u / 1.4) * np.sin(v / 1.4),
    "dotted": lambda u, v: 1.2 * (np.cos(u / 1.3) + np.cos(v / 1.3)),
    "zigzag": lambda u, v: np.sin(u + 1.4 * np.arcsin(np.sin(v / 1.6))),
}


def draw_surface(rng: Rng, kind: str, world: World) -> Surface:
    """A surface of class ``kind``, in any pattern."""
    return Surface(
        colours=np.stack([colour_of(hue, world.chroma) for hue in kind.split("-")]),
        pattern=str(rng.choice(list(PATTERNS))),
        wave=rng.uniform(world.wavelength_min, world.wavelength_max),
        angle=rng.uniform(0, math.pi),
        phases=rng.uniform(0, 2 * math.pi, 2).tolist(),
        creep=rng.uniform(-world.creep, world.creep, 2).tolist(),
    )


# --- things and their paths -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Swing:
    """A quantity that swings about ``middle``: the one kind of motion in the toy world."""

    middle: float
    reach: float
    rate: float  # radians a frame
    phase: float

    def at(self, t: float) -> float:
        return self.middle + self.reach * math.sin(self.rate * t + self.phase)


def _swing(rng: Rng, middle: float, reach: float, top_speed: float) -> Swing:
    rate = top_speed * rng.uniform(0.6, 1.0) / max(reach, 1e-6)
    return Swing(middle, reach, rate, rng.uniform(0, 2 * math.pi))


@dataclass(frozen=True)
class Thing:
    """One object: its surface and outline in its own coordinates, and how it moves."""

    kind: int  # index into THING_CLASSES
    surface: Surface
    radius: float
    lobes: list[list[float]]  # strength and phase of the outline's harmonics 2 to 5
    x: Swing
    y: Swing
    angle: Swing
    stretch: Swing

    def window(self, t: float) -> tuple[slice, slice]:
        """The rows and columns of a picture that it may reach."""
        x, y, reach = self.x.at(t), self.y.at(t), 1.8 * self.radius
        return tuple(slice(max(0, int(at - reach)), max(0, int(at + reach) + 1)) for at in (y, x))

    def render(self, x: Plane, y: Plane, t: float) -> tuple[np.ndarray, Plane]:
        """Its colours (h, w, 3) and how much of each pixel it covers, in 0..1."""
        x, y = x - self.x.at(t), y - self.y.at(t)
        cos, sin, stretch = math.cos(self.angle.at(t)), math.sin(self.angle.at(t)), 1 + self.stretch.at(t)
        u, v = (cos * x + sin * y) / stretch, (cos * y - sin * x) * stretch
        theta = np.arctan2(v, u)
        reach = 1 + sum(a * np.cos(n * theta + phase) for n, (a, phase) in enumerate(self.lobes, start=2))
        slope = sum(n * a * np.sin(n * theta + phase) for n, (a, phase) in enumerate(self.lobes, start=2))
        depth = (self.radius * reach - np.hypot(u, v)) / np.hypot(1, slope / reach)  # pixels inside the outline
        return self.surface.at(u, v, t), np.clip(0.5 + depth, 0, 1)


def draw_thing(rng: Rng, kind: int, size: tuple[int, int], world: World) -> Thing:
    """A thing of class ``kind`` for pictures of ``size`` (width, height)."""
    radius = 0.5 * rng.uniform(world.size_min, world.size_max) * min(size)
    reach_x, reach_y = (max(1.0, 0.5 * side - radius) * rng.uniform(0.7, 1.0) for side in size)
    return Thing(
        kind=kind,
        surface=draw_surface(rng, THING_CLASSES[kind], world),
        radius=radius,
        lobes=np.stack([rng.uniform(0, 0.3, 4) / np.arange(2, 6), rng.uniform(0, 2 * math.pi, 4)], axis=1).tolist(),
        x=_swing(rng, size[0] / 2, reach_x, world.speed),
        y=_swing(rng, size[1] / 2, reach_y, world.speed * 0.7),
        angle=_swing(rng, rng.uniform(0, 2 * math.pi), 1.2, world.turn),
        stretch=_swing(rng, 0.0, world.bend, world.bend * 0.2),
    )


def _settle(rng: Rng, things: list[Thing], frames: int) -> list[Thing]:
    """Choose the paths' phases: apart in frame 0; in a sequence, one thing passes behind another later."""
    best, least = things, math.inf
    for _ in range(60):
        phases = rng.uniform(0, 2 * math.pi, (len(things), 2)).tolist()
        tried = [
            replace(thing, x=replace(thing.x, phase=px), y=replace(thing.y, phase=py))
            for thing, (px, py) in zip(things, phases, strict=True)
        ]
        penalty = sum(max(0.0, 0.85 - _gap(a, b, 0)) for a, b in combinations(tried, 2))
        if frames > 1 and len(tried) > 1 and penalty < least:
            closest = min(_gap(a, b, t) for a, b in combinations(tried, 2) for t in range(2, frames, 2))
            penalty += max(0.0, closest - 0.45)
        if penalty < least:
            best, least = tried, penalty
        if least == 0:
            break
    return best


def _gap(a: Thing, b: Thing, t: int) -> float:
    """Distance of two things' centres; 1 where their outlines just touch."""
    return math.hypot(a.x.at(t) - b.x.at(t), a.y.at(t) - b.y.at(t)) / (a.radius + b.radius)


# --- scenes -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Frame:
    """A rendered moment of a scene."""

    image: np.ndarray  # (H, W, 3) uint8 RGB
    shares: np.ndarray  # (2 + things, H, W) float32: what either ground and each thing have of a pixel; sum 1
    labels: Sequence[int]  # of the surfaces in ``shares``, as in ``classes``

    @cached_property
    def things(self) -> np.ndarray:
        """(H, W) uint8: 0 background, i the scene's i-th thing, from 1; the later lies in front."""
        return np.argmax([self.shares[0] + self.shares[1], *self.shares[2:]], axis=0).astype(np.uint8)

    @cached_property
    def classes(self) -> np.ndarray:
        """(H, W) uint8: THING_CLASSES, then GROUND_CLASSES, from 1; 0 at edges, which no surface owns."""
        classes = np.array(self.labels, np.uint8)[np.argmax(self.shares, axis=0)]
        return classes * (self.shares.max(axis=0) >= 0.75)


class Scene:
    """A scene of ``size`` (width, height) pixels whose content depends on ``address`` and ``world`` alone."""

    def __init__(self, address: tuple[int, ...], size: tuple[int, int], world: World, frames: int = 1) -> None:
        rng = generator(*address)
        self.address, self.size, self.world = address, size, world
        self.ground_kinds = rng.permutation(len(GROUND_CLASSES))[:2].tolist()
        self.ground = [draw_surface(rng, GROUND_CLASSES[kind], world) for kind in self.ground_kinds]
        self.horizon = rng.uniform(0.35, 0.65) * size[1], rng.uniform(-0.5, 0.5)  # height, slope
        self.camera = [_swing(rng, 0.0, 34.0, world.camera) for _ in range(2)]
        count, kinds = int(rng.integers(world.things_min, world.things_max + 1)), []
        while len(kinds) < count:  # a class comes again only after all have come
            kinds += rng.permutation(len(THING_CLASSES)).tolist()
        self.things = _settle(rng, [draw_thing(rng, kind, size, world) for kind in kinds[:count]], frames)
        self.tint = [_swing(rng, 0.0, world.tint, 0.2 * world.tint) for _ in range(3)]
        self.rays = rng.uniform((0, 0, 0.1), (2 * math.pi, 2 * math.pi, 0.4), (5, 3)).tolist()  # angle, phase, rate

    def render(self, t: int) -> Frame:
        """The scene at frame ``t``."""
        y, x = np.mgrid[: self.size[1], : self.size[0]].astype(np.float32)
        east, south = x + self.camera[0].at(t), y + self.camera[1].at(t)
        near = np.clip(0.5 + south - self.horizon[0] - self.horizon[1] * (east - self.size[0] / 2), 0, 1)
        far, close = (surface.at(east, south, t) for surface in self.ground)
        colour = far + (close - far) * near[..., None]
        shares = np.zeros((2 + len(self.things), *near.shape), np.float32)
        shares[0], shares[1] = 1 - near, near
        for i, thing in enumerate(self.things, start=2):
            rows, columns = thing.window(t)
            surface, cover = thing.render(x[rows, columns], y[rows, columns], t)
            colour[rows, columns] += (surface - colour[rows, columns]) * cover[..., None]
            shares[:, rows, columns] *= 1 - cover
            shares[i, rows, columns] = cover
        snow = generator(*self.address, t, 1).standard_normal((*near.shape, 1), dtype=np.float32)
        colour *= np.exp(self._light(x, y, t)[..., None] + [tint.at(t) for tint in self.tint])
        image = np.clip(colour * 255 + snow * self.world.noise, 0, 255).round().astype(np.uint8)
        grounds = [1 + len(THING_CLASSES) + kind for kind in self.ground_kinds]
        return Frame(image, shares, [*grounds, *(1 + thing.kind for thing in self.things)])

    def _light(self, x: Plane, y: Plane, t: int) -> Plane:
        """The log gain of every pixel: waves in all directions, which move as time goes by."""
        waves = (
            np.sin((math.cos(angle) * x + math.sin(angle) * y) * rate + phase + self.world.flicker * t)
            for angle, phase, rate in self.rays
        )
        return sum(waves) * (self.world.light * math.sqrt(2 / len(self.rays)))
