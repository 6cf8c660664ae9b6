"""The pictures of the demonstration: those that a folder holds, or else drawn here."""

import io
import itertools
import math
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw, ImageFilter, ImageFont

SIZE = WIDTH, HEIGHT = 960, 640
_SCALE = 2  # drawn larger, then reduced: smooth edges
_W, _H = WIDTH * _SCALE, HEIGHT * _SCALE

#: the formats that browsers show
FORMATS = ("JPEG", "PNG", "GIF", "WEBP", "AVIF", "BMP")

Color = tuple[int, int, int]


@dataclass(frozen=True)
class Picture:
    """A picture to put in the site."""

    name: str
    media_type: str
    title: str | None
    #: returns the bytes, which may be many: they are read when they are needed
    read: Callable[[], bytes]


def in_folder(folder: Path) -> list[Picture]:
    """Return the pictures that a folder holds, by name; what is no picture is left out."""
    pictures = []
    for path in sorted(folder.iterdir()):
        if path.is_file() and (media_type := _media_type(path)):
            pictures.append(Picture(path.name, media_type, None, path.read_bytes))
    return pictures


def _media_type(path: Path) -> str | None:
    try:
        with Image.open(path, formats=FORMATS) as image:
            image.verify()
            return Image.MIME[image.format]
    except Exception:  # Pillow raises errors of many types on what is no image
        return None


def drawn() -> Iterator[Picture]:
    """Yield the pictures that are drawn here, always the same."""
    for draw, title in _DRAWINGS.items():
        name = f"{title.lower().replace(' ', '-')}.png"
        yield Picture(name, "image/png", title, lambda draw=draw, title=title: _png(draw, title))


def _png(draw: Callable[[random.Random], Image.Image], title: str) -> bytes:
    image = draw(random.Random(title)).resize(SIZE, Image.Resampling.LANCZOS)
    data = io.BytesIO()
    _caption(image, title).save(data, "PNG", optimize=True)
    return data.getvalue()


def _caption(image: Image.Image, text: str) -> Image.Image:
    """Return the image with a title in its lower left corner."""
    font = ImageFont.load_default(30)
    draw = ImageDraw.Draw(image, "RGBA")
    at = (36, HEIGHT - 62)
    left, top, right, bottom = draw.textbbox(at, text, font=font)
    box = (left - 18, top - 12, right + 18, bottom + 12)
    draw.rounded_rectangle(box, radius=12, fill=(0, 0, 0, 130))
    draw.text(at, text, font=font, fill=(255, 255, 255, 255))
    return image


def _mix(start: Color, end: Color, share: float) -> Color:
    return tuple(round(a + (b - a) * share) for a, b in zip(start, end, strict=True))


def _sky(*colors: Color) -> Image.Image:
    """Return an image that goes from the first colour, at the top, to the last."""
    image = Image.new("RGB", (1, _H))
    for y in range(_H):
        position = y / _H * (len(colors) - 1)
        step = int(position)
        image.putpixel((0, y), _mix(colors[step], colors[step + 1], position - step))
    return image.resize((_W, _H))


def _glow(image: Image.Image, x: int, y: int, radius: int, color: Color) -> None:
    """Paint a disc with a halo."""
    halo = Image.new("L", (_W // 8, _H // 8))
    box = [(x - 2 * radius) / 8, (y - 2 * radius) / 8, (x + 2 * radius) / 8, (y + 2 * radius) / 8]
    ImageDraw.Draw(halo).ellipse(box, fill=120)
    halo = halo.filter(ImageFilter.GaussianBlur(radius / 10)).resize(image.size)
    image.paste(color, mask=halo)
    ImageDraw.Draw(image).ellipse([x - radius, y - radius, x + radius, y + radius], fill=color)


def _ridge(rng: random.Random, height: float, roughness: float) -> list[tuple[float, float]]:
    """Return the outline of a chain of mountains, by displacement of midpoints."""
    heights = [height + rng.uniform(-roughness, roughness) for _ in range(3)]
    while len(heights) < 400:
        roughness *= 0.52
        middles = [
            (a + b) / 2 + rng.uniform(-roughness, roughness)
            for a, b in itertools.pairwise(heights)
        ]
        heights = [y for pair in zip(heights, middles, strict=False) for y in pair] + heights[-1:]
    outline = [(_W * i / (len(heights) - 1), y) for i, y in enumerate(heights)]
    return [(0, _H), *outline, (_W, _H)]


def _mountains(rng: random.Random) -> Image.Image:
    image = _sky((58, 48, 110), (214, 96, 120), (255, 196, 120), (255, 226, 170))
    _glow(image, _W * 2 // 3, 560, 95, (255, 240, 200))
    draw = ImageDraw.Draw(image)
    for i in range(6):
        color = _mix((206, 128, 140), (28, 22, 54), i / 5)
        draw.polygon(_ridge(rng, 560 + 125 * i, 230 - 22 * i), fill=color)
    return image


def _city(rng: random.Random) -> Image.Image:
    image = _sky((6, 10, 34), (20, 32, 84), (70, 60, 130))
    draw = ImageDraw.Draw(image)
    for _ in range(260):
        x, y, r = rng.randrange(_W), rng.randrange(_H * 2 // 3), rng.choice((1, 2, 2, 3))
        draw.ellipse([x - r, y - r, x + r, y + r], fill=(230, 235, 255))
    _glow(image, 420, 270, 90, (250, 246, 220))
    draw = ImageDraw.Draw(image)
    for row, color in enumerate(((34, 40, 92), (20, 24, 60), (8, 10, 30))):
        x = -40
        while x < _W:
            width, height = rng.randrange(110, 230), rng.randrange(260, 720) - 120 * row
            _tower(draw, rng, (x, _H - height, x + width, _H), color, lit=0.2 + 0.2 * row)
            x += width + rng.randrange(0, 30)
    return image


def _tower(draw, rng: random.Random, box: tuple[int, ...], color: Color, lit: float) -> None:
    left, top, right, bottom = box
    draw.rectangle(box, fill=color)
    for y in range(top + 24, bottom, 38):
        for x in range(left + 18, right - 24, 32):
            if rng.random() < lit:
                draw.rectangle([x, y, x + 14, y + 18], fill=rng.choice(_LAMPS))


_LAMPS = ((255, 214, 120), (255, 236, 180), (255, 190, 90))


def _regatta(rng: random.Random) -> Image.Image:
    image = _sky((72, 160, 224), (150, 206, 240), (236, 246, 250), (236, 246, 250))
    _glow(image, 1560, 210, 80, (255, 250, 214))
    draw = ImageDraw.Draw(image)
    sails = [(236, 70, 60), (255, 255, 255), (250, 190, 40), (40, 90, 170), (255, 255, 255)]
    for wave in range(11):
        base = 640 + wave * 62
        color = _mix((120, 196, 214), (10, 62, 110), wave / 10)
        phase, length = rng.uniform(0, 6), 130 + 22 * wave
        crest = [(x, base + 14 * math.sin(x / length * 2 + phase)) for x in range(0, _W + 8, 8)]
        if wave % 2 and sails:
            _boat(draw, rng.randrange(150, _W - 300), base + 12, 0.55 + wave / 9, sails.pop())
        draw.polygon([(0, _H), *crest, (_W, _H)], fill=color)
    return image


def _boat(draw, x: float, y: float, scale: float, sail: Color) -> None:
    def at(*points: tuple[float, float]) -> list[tuple[float, float]]:
        return [(x + dx * scale, y + dy * scale) for dx, dy in points]

    draw.polygon(at((8, -40), (8, -300), (130, -40)), fill=sail)
    draw.polygon(at((-4, -40), (-4, -260), (-80, -40)), fill=_mix(sail, (0, 0, 0), 0.18))
    draw.polygon(at((-100, -30), (150, -30), (110, 20), (-70, 20)), fill=(88, 48, 30))


def _sunflower(_rng: random.Random) -> Image.Image:
    image = _sky((52, 140, 200), (150, 210, 236))
    draw = ImageDraw.Draw(image)
    center_x, center_y = _W / 2, _H / 2
    for ring, color in enumerate(((232, 140, 10), (250, 180, 20), (255, 206, 50))):
        for i in range(24):
            angle = math.tau * (i + ring / 3) / 24
            _petal(draw, (center_x, center_y), angle, 610 - 40 * ring, color)
    golden_angle = math.pi * (3 - math.sqrt(5))  # how seeds are arranged
    draw.ellipse([center_x - 372, center_y - 372, center_x + 372, center_y + 372], fill=_SEEDS[0])
    for i in range(900):
        distance = 12 * math.sqrt(i)
        x = center_x + distance * math.cos(i * golden_angle)
        y = center_y + distance * math.sin(i * golden_angle)
        color = _mix(_SEEDS[1], _SEEDS[2], i / 900)
        draw.ellipse([x - 8, y - 8, x + 8, y + 8], fill=color)
    return image


_SEEDS = ((52, 28, 14), (150, 160, 50), (214, 130, 30))


def _petal(draw, center: tuple[float, float], angle: float, length: float, color: Color) -> None:
    points = []
    for side in (1, -1):
        for step in range(0, 21)[::side]:
            share = step / 20
            along, across = length * share, side * 62 * math.sin(math.pi * share**1.6)
            points.append(
                (
                    center[0] + along * math.cos(angle) - across * math.sin(angle),
                    center[1] + along * math.sin(angle) + across * math.cos(angle),
                )
            )
    draw.polygon(points, fill=color, outline=_mix(color, (120, 60, 0), 0.4), width=3)


def _tiles(rng: random.Random) -> Image.Image:
    """Draw quarter circles in squares, turned at random: Truchet's tiles."""
    palette = [(242, 84, 91), (255, 209, 102), (6, 180, 150), (17, 110, 170), (250, 243, 221)]
    image = Image.new("RGB", (_W, _H))
    side = _H // 8
    for left in range(0, _W, side):
        for top in range(0, _H, side):
            ground, *rings = rng.sample(palette, 4)
            tile = Image.new("RGB", (side, side), ground)
            draw = ImageDraw.Draw(tile)
            x, y = rng.choice((0, side)), rng.choice((0, side))
            for color, share in zip(rings, (1, 0.68, 0.36), strict=True):
                radius = side * share
                draw.ellipse([x - radius, y - radius, x + radius, y + radius], fill=color)
            image.paste(tile, (left, top))
    return image


def _birches(rng: random.Random) -> Image.Image:
    image = _sky((250, 226, 170), (244, 190, 110), (196, 110, 50))
    leaves = [(226, 88, 34), (240, 150, 30), (200, 50, 40), (250, 196, 60), (150, 60, 30)]
    for depth in range(4):
        draw = ImageDraw.Draw(image)
        pale = 0.55 - 0.18 * depth
        for _ in range(7 - depth):
            x, width = rng.randrange(_W), rng.randrange(14, 22) * (depth + 1)
            bark = _mix((246, 240, 228), (250, 214, 150), pale)
            draw.rectangle([x, 0, x + width, _H], fill=bark)
            for y in range(0, _H, 46):
                y += rng.randrange(40)
                long = width * rng.uniform(0.2, 0.7)
                mark = _mix((60, 48, 44), (250, 214, 150), pale)
                draw.rectangle([x, y, x + long, y + 5 + 2 * depth], fill=mark)
        for _ in range(420):
            x, y = rng.randrange(_W), min(abs(rng.gauss(0, 300)), _H)
            if rng.random() < 0.3:
                y = _H - abs(rng.gauss(0, 80))
            r = rng.randrange(6, 14) + 4 * depth
            color = _mix(rng.choice(leaves), (250, 214, 150), max(0, pale))
            draw.ellipse([x - r, y - r * 0.7, x + r, y + r * 0.7], fill=color)
    return image


_DRAWINGS = {
    _mountains: "Mountains at dawn",
    _city: "City at night",
    _regatta: "Regatta",
    _sunflower: "Sunflower",
    _tiles: "Tiles",
    _birches: "Birches in autumn",
}
