"""One scene of the toy world: textured things that move, turn, bend and hide one another in changing light.

A scene is drawn once (colours, textures, outlines, paths) and rendered at any time ``t``, in frames. Every
surface is kept as a small picture in its own coordinates; a frame looks each pixel up there, so that texture
and outline bend together and an edge is anti-aliased by its true distance.

Colour does not tell a thing from its background: all surfaces of a scene take their colours from the one
palette of the scene. Shape and texture do, and textures have their structure within 8 to 16 pixels.
"""

import math
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import combinations

import cv2
import numpy as np

SHAPES = ("pebble", "star", "box")
THING_TEXTURES = ("striped", "checked", "dotted", "zigzag")
GROUND_TEXTURES = ("grain", "clouds", "marble", "dunes")
Rng = np.random.Generator
Sun = tuple[float, float]  # the direction that light comes from, as (x, y)
THING_CLASSES = tuple(f"{texture} {shape}" for texture in THING_TEXTURES for shape in SHAPES)


@dataclass(frozen=True)
class World:
    """What the toy world is like; every field is a number that may be tuned (``--set NAME=VALUE``)."""

    things_min: int = 2
    things_max: int = 4
    size_min: float = 0.30  # diameter of a thing, as a share of the picture's short side
    size_max: float = 0.46
    wavelength_min: float = 6.0  # period of a thing's texture, pixels
    wavelength_max: float = 11.0
    contrast: float = 0.22  # least difference in luminance (0..1) between the two colours of a texture
    chroma: float = 0.22  # how far colours lie from grey; with less of it a scene is known by its textures rather
    colours: int = 3  # palette of a scene; 2 would give all its surfaces the same two colours
    speed: float = 6.0  # top speed of a thing, pixels a frame
    turn: float = 0.06  # top rotation of a thing, radians a frame
    bend: float = 0.10  # deformation, as a share of the diameter
    camera: float = 2.0  # top speed of the background, pixels a frame
    light: float = 0.40  # log gain by which global light, its direction and its tint come and go
    shadow: float = 0.45  # share of the light that a passing shadow takes
    noise: float = 2.5  # standard deviation of the sensor's noise, grey levels


def generator(*address: int) -> np.random.Generator:
    """Random numbers that depend on their address alone, e.g. (seed, kind, index)."""
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(address)))


# --- colours and textures ---------------------------------------------------------------------------------


def draw_palette(rng: Rng, world: World) -> np.ndarray:
    """Colours of a scene, (colours, 3) in 0..1, with luminances at least ``world.contrast`` apart."""
    n = max(2, world.colours)
    room = max(0.0, 0.60 - (n - 1) * world.contrast)
    luminance = 0.16 + np.sort(rng.uniform(0, room, n)) + world.contrast * np.arange(n)
    hue = rng.normal(size=(n, 3))
    hue -= hue @ [[0.299], [0.587], [0.114]]  # luminance stays, only chroma moves
    hue *= world.chroma / np.abs(hue).max(axis=1, keepdims=True)
    return np.clip(luminance[:, None] + hue, 0.03, 0.97)


def _smooth_noise(rng: Rng, shape: tuple[int, int], sigma: float) -> np.ndarray:
    """Gaussian noise of correlation length ``sigma`` pixels, mean 0, standard deviation 1."""
    step = max(1, int(sigma / 2))  # what is smooth needs few samples
    coarse = (shape[0] // step + 4, shape[1] // step + 4)
    noise = cv2.GaussianBlur(rng.standard_normal(coarse, dtype=np.float32), (0, 0), sigma / step)
    noise = cv2.resize(noise, (coarse[1] * step, coarse[0] * step), interpolation=cv2.INTER_CUBIC)
    noise = noise[: shape[0], : shape[1]]
    return (noise - noise.mean()) / noise.std()


def _pattern(rng: Rng, family: str, shape: tuple[int, int], world: World) -> np.ndarray:
    """How much of the second colour stands where, (H, W) in 0..1; half of the whole on average."""
    y, x = np.mgrid[: shape[0], : shape[1]].astype(np.float32)
    angle = rng.uniform(0, math.pi)
    wave = rng.uniform(world.wavelength_min, world.wavelength_max)
    u = (math.cos(angle) * x + math.sin(angle) * y) * (2 * math.pi / wave)
    v = (math.cos(angle) * y - math.sin(angle) * x) * (2 * math.pi / wave)
    edge = wave / (2 * np.pi)  # the slope at which a transition is one pixel wide
    if family == "striped":
        height = np.sin(u) * edge
    elif family == "checked":
        height = np.sin(u / 1.5) * np.sin(v / 1.5) * edge * 1.5  # a checker's field is half its period
    elif family == "dotted":
        height = (np.cos(u / 1.3) + np.cos(v / 1.3) - 0.45) * edge * 1.3
    elif family == "zigzag":
        height = np.sin(u + 2.2 * np.arcsin(np.sin(v / 1.6)) / 1.57) * edge
    elif family == "grain":
        height = _smooth_noise(rng, shape, rng.uniform(0.9, 1.6)) * 0.7
    elif family == "clouds":
        height = sum(_smooth_noise(rng, shape, s) * w for s, w in ((2, 0.35), (5, 0.6), (12, 0.7))) * 0.5
    elif family == "marble":
        height = np.sin(u / 1.8 + 4.0 * _smooth_noise(rng, shape, 7.0)) * 0.8
    else:  # dunes
        saw = (u / (2 * np.pi) / 4 + 0.35 * _smooth_noise(rng, shape, 16.0)) % 1.0
        height = (saw - 0.5) * 1.1 + 0.12 * _smooth_noise(rng, shape, 1.2)
    return np.clip(0.5 + height, 0, 1).astype(np.float32)


def draw_texture(rng: Rng, family: str, shape: tuple[int, int], palette: np.ndarray, world: World) -> np.ndarray:
    """A surface of two of the palette's colours, (H, W, 3) float32 in 0..1."""
    first, second = palette[rng.permutation(len(palette))[:2]].astype(np.float32)
    pattern = _pattern(rng, family, shape, world)[..., None]  # (H, W, 1)
    mottle = 1 + 0.05 * _smooth_noise(rng, shape, 4.0)[..., None]  # nothing in the world is flat
    return (first + (second - first) * pattern) * mottle


def draw_outline(rng: Rng, shape: str, side: int, radius: float) -> np.ndarray:
    """Distance to the outline in pixels, positive inside, (side, side) float32; about ``radius`` large."""
    y, x = np.mgrid[:side, :side].astype(np.float32) - (side - 1) / 2
    theta, rho = np.arctan2(y, x), np.hypot(x, y)
    if shape == "pebble":
        stretch = rng.uniform(1.1, 1.5)
        reach = 1 / np.hypot(np.cos(theta) / stretch, np.sin(theta) * stretch)
    elif shape == "star":
        arms = int(rng.integers(5, 7))
        reach = 0.72 + 0.5 * (1 - np.arccos(np.cos(arms * theta)) / np.pi) ** 1.2
    else:  # box
        stretch = rng.uniform(1.0, 1.25)
        power = rng.uniform(5, 9)
        corner = np.abs(np.cos(theta) / stretch) ** power + np.abs(np.sin(theta) * stretch) ** power
        reach = 0.88 * corner ** (-1 / power)  # the corners reach further than a disk of the same area
    for harmonic in (2, 3):  # no two things of a class have the same outline
        reach = reach * (1 + rng.uniform(0, 0.05) * np.cos(harmonic * theta + rng.uniform(0, 2 * math.pi)))
    height = (radius * reach - rho).astype(np.float32)
    near = height / np.maximum(np.hypot(*np.gradient(height)), 0.5)  # first order: sub-pixel at the outline,
    far = cv2.distanceTransform((height > 0).astype(np.uint8), cv2.DIST_L2, 5)  # but wild near the centre
    return np.where(near < 1.5, near, np.maximum(far - 0.5, 1.5)).astype(np.float32)


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
    radius: float
    atlas: np.ndarray  # (side, side, 4): RGB in 0..1 and distance to the outline in pixels
    x: Swing
    y: Swing
    angle: Swing
    stretch: Swing
    wobble: Swing


def draw_thing(rng: Rng, kind: int, size: tuple[int, int], palette: np.ndarray, world: World) -> Thing:
    """A thing of class ``kind`` for pictures of ``size`` (width, height)."""
    width, height = size
    radius = 0.5 * rng.uniform(world.size_min, world.size_max) * min(size)
    side = int(radius * 3.2) | 1
    texture, shape = THING_CLASSES[kind].split()
    surface = draw_texture(rng, texture, (side, side), palette, world)
    outline = draw_outline(rng, shape, side, radius)
    reach_x = max(1.0, 0.5 * width - radius) * rng.uniform(0.7, 1.0)
    reach_y = max(1.0, 0.5 * height - radius) * rng.uniform(0.7, 1.0)
    return Thing(
        kind=kind,
        radius=radius,
        atlas=np.dstack([surface, outline]),
        x=_swing(rng, width / 2, reach_x, world.speed),
        y=_swing(rng, height / 2, reach_y, world.speed * 0.7),
        angle=_swing(rng, rng.uniform(0, 2 * math.pi), 1.2, world.turn),
        stretch=_swing(rng, 0.0, world.bend, world.bend * 0.2),
        wobble=_swing(rng, 0.0, world.bend * radius, world.bend * radius * 0.25),
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


@dataclass(frozen=True)
class Frame:
    """A rendered moment of a scene."""

    image: np.ndarray  # (H, W, 3) uint8 RGB
    shares: np.ndarray  # (2 + things, H, W) float32: what either ground and each thing have of a pixel; sum 1
    labels: tuple[int, ...]  # of the surfaces in ``shares``, as in ``classes``

    @cached_property
    def things(self) -> np.ndarray:
        """(H, W) uint8: 0 background, i the scene's i-th thing, from 1; the later lies in front."""
        return np.argmax([self.shares[0] + self.shares[1], *self.shares[2:]], axis=0).astype(np.uint8)

    @cached_property
    def classes(self) -> np.ndarray:
        """(H, W) uint8: THING_CLASSES, then GROUND_TEXTURES, from 1; 0 at edges, which no surface owns."""
        classes = np.array(self.labels, np.uint8)[np.argmax(self.shares, axis=0)]
        return classes * (self.shares.max(axis=0) >= 0.75)


class Scene:
    """A scene of ``size`` (width, height) pixels whose content depends on ``address`` and ``world`` alone."""

    def __init__(self, address: tuple[int, ...], size: tuple[int, int], world: World, frames: int = 1) -> None:
        rng = generator(*address)
        self.address, self.size, self.world = address, size, world
        palette = draw_palette(rng, world)
        self._draw_ground(rng, palette, margin=48 if frames > 1 else 8)
        count = int(rng.integers(world.things_min, world.things_max + 1))
        textures, shapes = rng.permutation(len(THING_TEXTURES)), rng.permutation(len(SHAPES))
        # a texture repeats only after all have been used, and then with another shape
        pairs = [(textures[i % len(textures)], shapes[(i + i // len(textures)) % len(shapes)]) for i in range(count)]
        kinds = [int(texture) * len(SHAPES) + int(shape) for texture, shape in pairs]
        self.things = _settle(rng, [draw_thing(rng, kind, size, palette, world) for kind in kinds], frames)
        self._draw_light(rng)

    def _draw_ground(self, rng: Rng, palette: np.ndarray, margin: int) -> None:
        """Two textured regions that meet in a wavy line; the camera moves over them."""
        width, height = self.size
        self.margin = margin  # how far the camera may look beyond the first view, pixels
        shape = (height + 2 * margin, width + 2 * margin)
        y, x = np.mgrid[: shape[0], : shape[1]].astype(np.float32)
        self.ground_kinds = [int(kind) for kind in rng.permutation(len(GROUND_TEXTURES))[:2]]
        far, near = (draw_texture(rng, GROUND_TEXTURES[kind], shape, palette, self.world) for kind in self.ground_kinds)
        tilt = rng.uniform(-0.5, 0.5)
        line = shape[0] * rng.uniform(0.35, 0.65) + tilt * (x - shape[1] / 2)
        wave, phase = rng.uniform(60, 160), rng.uniform(0, 2 * math.pi)
        line += rng.uniform(4, 14) * np.sin(x * (2 * math.pi / wave) + phase)
        share = np.clip(0.5 + (y - line), 0, 1)[..., None]  # of the near region
        self.ground = np.dstack([far + (near - far) * share, share]).astype(np.float32)  # (H', W', 4)
        self.camera = [_swing(rng, 0.0, margin * 0.7, self.world.camera) for _ in range(2)]
        self.roll = _swing(rng, 0.0, 0.08, 0.003 * self.world.camera)

    def _draw_light(self, rng: Rng) -> None:
        light, tint = self.world.light, 0.35 * self.world.light
        self.gain = _swing(rng, -0.25 * light, light, light * 0.2)
        self.tint = [_swing(rng, 0.0, tint, tint * 0.2) for _ in range(3)]  # of R, G, B
        self.sun = _swing(rng, rng.uniform(0, 2 * math.pi), 2.0, 0.2 * light)  # where the light comes from, radians
        width, height = self.size
        self.shade_angle = rng.uniform(0, 2 * math.pi)
        self.shade_width = rng.uniform(0.10, 0.22) * width
        self.shade_path = _swing(rng, 0.0, 0.6 * max(width, height), self.world.speed * 1.5)

    def render(self, t: int) -> Frame:
        """The scene at frame ``t``."""
        colour, shares = self._render_ground(t)
        sun = (math.cos(self.sun.at(t)), math.sin(self.sun.at(t)))
        for i, thing in enumerate(self.things, start=2):
            rows, columns, surface, alpha = self._render_thing(thing, t, sun)
            below = colour[rows, columns]  # a view: what is written there is written to the frame
            shift = np.array([[1, 0, -sun[0] * thing.radius * 0.2], [0, 1, -sun[1] * thing.radius * 0.2]])
            below *= 1 - 0.35 * cv2.blur(cv2.warpAffine(alpha, shift, alpha.shape[::-1]), (7, 7))[..., None]  # shadow
            below += (surface - below) * alpha[..., None]
            shares[:, rows, columns] *= 1 - alpha
            shares[i, rows, columns] = alpha
        colour *= self._render_light(t, sun)
        noise = generator(*self.address, t, 1).standard_normal(colour.shape, dtype=np.float32)
        image = np.clip(colour * 255 + noise * self.world.noise, 0, 255).round().astype(np.uint8)
        grounds = (1 + len(THING_CLASSES) + kind for kind in self.ground_kinds)
        return Frame(image, shares, (*grounds, *(1 + thing.kind for thing in self.things)))

    def _render_ground(self, t: int) -> tuple[np.ndarray, np.ndarray]:
        width, height = self.size
        roll, dx, dy = self.roll.at(t), self.camera[0].at(t), self.camera[1].at(t)
        cos, sin = math.cos(roll), math.sin(roll)
        cx, cy = (width - 1) / 2, (height - 1) / 2
        matrix = np.array(  # from a pixel of the frame to the ground's picture
            [
                [cos, -sin, cx + self.margin + dx - cos * cx + sin * cy],
                [sin, cos, cy + self.margin + dy - sin * cx - cos * cy],
            ]
        )
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        ground = cv2.warpAffine(self.ground, matrix, self.size, flags=flags, borderMode=cv2.BORDER_REFLECT_101)
        shares = np.zeros((2 + len(self.things), height, width), np.float32)
        shares[0], shares[1] = 1 - ground[..., 3], ground[..., 3]
        return np.ascontiguousarray(ground[..., :3]), shares

    def _render_thing(self, thing: Thing, t: int, sun: Sun) -> tuple[slice, slice, np.ndarray, np.ndarray]:
        """The window it lies in, its lit surface (h, w, 3) and its coverage (h, w) there."""
        (width, height), reach = self.size, 1.9 * thing.radius  # with its shadow
        x0, y0 = thing.x.at(t), thing.y.at(t)
        left, right = max(0, int(x0 - reach)), min(width, int(x0 + reach) + 1)
        top, bottom = max(0, int(y0 - reach)), min(height, int(y0 + reach) + 1)
        y, x = np.mgrid[top:bottom, left:right].astype(np.float32)
        x, y = x - x0, y - y0
        cos, sin = math.cos(thing.angle.at(t)), math.sin(thing.angle.at(t))
        stretch, wobble = 1 + thing.stretch.at(t), thing.wobble.at(t)
        u, v = (cos * x + sin * y) / stretch, (cos * y - sin * x) * stretch
        rate = math.pi / (1.5 * thing.radius)
        u, v = u + wobble * np.sin(rate * v), v + wobble * np.sin(rate * u + 1)
        centre = (thing.atlas.shape[0] - 1) / 2
        seen = cv2.remap(thing.atlas, u + centre, v + centre, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        depth = seen[..., 3]
        slope_y, slope_x = np.gradient(depth)
        rim = np.clip(1 - depth / (0.4 * thing.radius), 0, 1) ** 1.5
        facing = 1 - 0.35 * rim * (slope_x * sun[0] + slope_y * sun[1])  # rounded: bright here, dark there
        surface = seen[..., :3] * np.clip(facing, 0.6, 1.4)[..., None]
        return slice(top, bottom), slice(left, right), surface, np.clip(0.5 + depth, 0, 1)

    def _render_light(self, t: int, sun: Sun) -> np.ndarray:
        """Gain of every pixel and channel, (H, W, 3)."""
        width, height = self.size
        y, x = np.mgrid[:height, :width].astype(np.float32)
        x, y = x - width / 2, y - height / 2
        slope = (x * sun[0] + y * sun[1]) * (0.6 * self.world.light / (0.5 * max(self.size)))
        across = x * math.cos(self.shade_angle) + y * math.sin(self.shade_angle) - self.shade_path.at(t)
        inside = 0.5 - 0.5 * np.tanh((np.abs(across) - self.shade_width) / 6)  # its edge is some 10 pixels soft
        tint = np.exp([self.gain.at(t) + channel.at(t) for channel in self.tint]).astype(np.float32)
        return (np.exp(slope) * (1 - self.world.shadow * inside))[..., None] * tint
