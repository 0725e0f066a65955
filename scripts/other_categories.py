#!/usr/bin/env python3
"""Makes the six categories of docs/accuracy.md, in the layout of MVTec AD, from photographs that ship with scikit-image
and scikit-learn:

    pip install numpy scipy scikit-image==0.26.0 scikit-learn==1.9.1
    python3 scripts/other_categories.py DIR

writes DIR/a (cat, grass, motorcycle) and DIR/b (retina, temple, tissue). The same versions make the same images.
"""

import os
import sys

import numpy as np
import skimage
import sklearn
from scipy import ndimage
from skimage import io

SKIMAGE = os.path.join(os.path.dirname(skimage.__file__), "data", "")
SKLEARN = os.path.join(os.path.dirname(sklearn.__file__), "datasets", "images", "")

# scale: photograph's pixels per pixel; at, shift: an object's centre and how far it moves, in the photograph's pixels;
# warp: of an elastic warp, in pixels; strength: of defects. A texture trains and tests on different halves of its
# photograph, unless it is `whole`.
CATEGORIES = {
    "a/grass": dict(photo=SKIMAGE + "grass.png", seed=100, size=224, texture=True, scale=(0.85, 1.15), rotation=0.2,
                    flip=True, kinds=["scratch", "stain", "foreign", "blur"], strength=2.6),
    "b/tissue": dict(photo=SKIMAGE + "ihc.png", seed=101, size=200, texture=True, whole=True, scale=(0.75, 0.9),
                     rotation=0.3, flip=True, kinds=["scratch", "stain", "foreign", "missing"], strength=2.4),
    "b/retina": dict(photo=SKIMAGE + "retina.jpg", seed=102, size=192, blur=2.5, scale=(6.4, 7.1), rotation=0.25,
                     at=(705, 705), shift=25, warp=1.0, kinds=["scratch", "stain", "missing", "misplaced"],
                     strength=1.3),
    "a/motorcycle": dict(photo=SKIMAGE + "motorcycle_left.png", seed=103, size=208, scale=(1.15, 1.35), rotation=0.1,
                         at=(255, 330), shift=6, warp=1.0, kinds=["scratch", "twist", "missing", "foreign"],
                         strength=1.0),
    "b/temple": dict(photo=SKLEARN + "china.jpg", seed=104, size=224, scale=(1.0, 1.15), rotation=0.08, at=(255, 215),
                     shift=6, warp=1.2, kinds=["scratch", "missing", "misplaced", "stain"], strength=1.5),
    "a/cat": dict(photo=SKIMAGE + "chelsea.png", seed=105, size=176, scale=(1.0, 1.2), rotation=0.15, at=(222, 120),
                  shift=6, warp=1.0, kinds=["scratch", "stain", "twist", "blur"], strength=1.3),
}


def load(path):
    """A photograph (H, W, 1 or 3) in 0..1."""
    image = io.imread(path).astype(float) / 255
    return image[..., None] if image.ndim == 2 else image[..., :3]


def each_channel(image, f):
    return np.stack([f(image[..., k]) for k in range(image.shape[2])], -1)


def pixels(size):
    return np.mgrid[:size, :size].astype(float)


def crop(photo, matrix, size, centre, warp=(0, 0)):
    """size × size pixels of a photograph around its pixel `centre` (x, y), through a 2 × 2 matrix."""
    y, x = pixels(size) - (size - 1) / 2
    x, y = x + warp[0], y + warp[1]
    at = [matrix[1, 0] * x + matrix[1, 1] * y + centre[1], matrix[0, 0] * x + matrix[0, 1] * y + centre[0]]
    return each_channel(photo, lambda c: ndimage.map_coordinates(c, at, order=1, mode="reflect"))


def turned(scale, angle, flip=False):
    cos, sin = np.cos(angle), np.sin(angle)
    matrix = scale * np.array([[cos, -sin], [sin, cos]])
    return matrix @ np.diag([-1, 1]) if flip else matrix


def elastic(rng, size, amplitude):
    fields = [ndimage.gaussian_filter(rng.standard_normal((size, size)), 18) for _ in range(2)]
    return [amplitude * f / (f.std() + 1e-9) for f in fields]


def blob(rng, size, area, where):
    """An irregular spot of about so many pixels around `where` (y, x)."""
    y, x = pixels(size)
    radius = np.sqrt(area / np.pi)
    stretch, angle = rng.uniform(0.6, 1.6), rng.uniform(0, np.pi)
    along = (x - where[1]) * np.cos(angle) + (y - where[0]) * np.sin(angle)
    across = -(x - where[1]) * np.sin(angle) + (y - where[0]) * np.cos(angle)
    noise = ndimage.gaussian_filter(rng.standard_normal((size, size)), radius / 2)
    return np.sqrt((along / stretch) ** 2 + (across * stretch) ** 2) / radius + 0.2 * (noise / noise.std()) < 1


def curve(rng, size, where, length, thick):
    """A line that winds from `where` on."""
    at, angle, turn = np.array(where, float), rng.uniform(0, 2 * np.pi), 0
    mask = np.zeros((size, size), bool)
    for _ in range(int(length * 2)):
        turn = 0.9 * turn + rng.normal(0, 0.03)
        angle += turn
        at = at + 0.5 * np.array([np.sin(angle), np.cos(angle)])
        cell = np.round(at).astype(int)
        if (cell < 2).any() or (cell >= size - 2).any():
            break
        mask[cell[0], cell[1]] = True
    return ndimage.binary_dilation(mask, iterations=1) if thick else mask


def soft(mask, sigma):
    return ndimage.gaussian_filter(mask.astype(float), sigma)[..., None]


def blend(image, other, share):
    return image * (1 - share) + other * share


def foreign_materials():
    return [load(SKIMAGE + "coins.png")[60:120, 60:220], load(SKLEARN + "flower.jpg")[150:300, 250:400],
            load(SKIMAGE + "brick.png")[:200, :200], load(SKIMAGE + "coffee.png")[100:300, 100:300]]


def defect(kind, image, rng, c, materials):
    """The image with a defect, and its mask."""
    size, channels, strength = c["size"], image.shape[2], c["strength"]
    length = size / 200 * strength**0.5
    area = length * length
    low, high = (0.15, 0.85) if c.get("texture") else (0.28, 0.72)
    where = rng.uniform(low * size, high * size, 2)
    if kind == "scratch":
        mask = curve(rng, size, where, rng.uniform(30, 70) * length, rng.random() < 0.6)
        light = rng.choice([-1, 1]) * rng.uniform(0.25, 0.45) * strength
        return image + np.clip(soft(mask, 0.6) * 1.6, 0, 1) * light, mask
    if kind == "stain":
        mask = blob(rng, size, rng.uniform(250, 900) * area, where)
        tint = rng.uniform(0.12, 0.3) * strength * rng.choice([-1, 1])
        return blend(image, image * (1 + tint * (np.array([1, 0.7, 0.4]) if channels > 1 else 1)), soft(mask, 1.5)), mask
    if kind == "twist":
        radius = rng.uniform(11, 20) * length
        y, x = pixels(size)
        dy, dx = y - where[0], x - where[1]
        distance = np.hypot(dy, dx)
        angle = np.clip(1 - (distance / radius) ** 2, 0, 1) ** 1.5 * rng.uniform(1.0, 2.2) * rng.choice([-1, 1])
        at = [where[0] + dy * np.cos(angle) - dx * np.sin(angle), where[1] + dy * np.sin(angle) + dx * np.cos(angle)]
        twisted = each_channel(image, lambda c: ndimage.map_coordinates(c, at, order=1, mode="nearest"))
        return twisted, distance < 0.85 * radius
    if kind == "blur":
        mask = blob(rng, size, rng.uniform(350, 1000) * area, where)
        blurred = each_channel(image, lambda c: ndimage.gaussian_filter(c, rng.uniform(2, 3.5)))
        return blend(image, blurred, soft(mask, 1.0)), mask
    if kind == "foreign":
        mask = blob(rng, size, rng.uniform(120, 420) * area, where)
        material = materials[rng.integers(len(materials))]
        if channels == 1:
            material = material.mean(-1, keepdims=True)
        if material.shape[2] < channels:
            material = np.repeat(material, 3, -1)
        matrix = turned(rng.uniform(0.6, 1.2), rng.uniform(0, 6.3))
        centre = rng.uniform(30, material.shape[1] - 30), rng.uniform(20, material.shape[0] - 20)
        material = crop(material, matrix, size, centre)
        # Its brightness is nearly that of what it covers: the texture differs.
        material = material + 0.7 * (image[mask].mean(0) - material[mask].mean(0))
        return blend(image, material, 0.85 * soft(mask, 0.7)), mask
    mask = blob(rng, size, rng.uniform(250, 700) * area, where)
    if kind == "missing":
        ring = ndimage.binary_dilation(mask, iterations=4) & ~ndimage.binary_dilation(mask, iterations=1)
        filling = image[ring].mean(0) + rng.normal(0, 0.015, image.shape)
        return blend(image, filling, 0.9 * soft(mask, 0.8)), mask
    assert kind == "misplaced"
    moved = np.roll(image, rng.integers(20, 45, 2) * rng.choice([-1, 1], 2), (0, 1))
    return blend(image, np.rot90(moved, rng.integers(1, 3)), soft(mask, 0.8)), mask


def good(c, photo, rng, training):
    """An image without a defect."""
    size, (height, width) = c["size"], photo.shape[:2]
    scale = rng.uniform(*c["scale"])
    angle = rng.uniform(-c["rotation"], c["rotation"])
    matrix = turned(scale, angle, c.get("flip") and rng.random() < 0.5)
    if c.get("texture"):
        low, high = (0, width) if c.get("whole") else (0, width // 2) if training else (width // 2, width)
        half, part = photo[:, low:high], size * scale * 0.55
        middle = half.shape[1] / 2
        x = rng.uniform(min(part, middle), max(half.shape[1] - part, middle))
        image = crop(half, matrix, size, (x, rng.uniform(part, height - part)))
    else:
        centre = np.array(c["at"]) + rng.uniform(-c["shift"], c["shift"], 2)
        image = crop(photo, matrix, size, centre, elastic(rng, size, c["warp"]))
    light = rng.uniform(0.9, 1.1)
    y, x = np.mgrid[:size, :size] / size - 0.5
    image = image * light * (1 + rng.uniform(-0.08, 0.08) * x + rng.uniform(-0.08, 0.08) * y)[..., None]
    return image * (1 + rng.uniform(-0.03, 0.03, 3)) if image.shape[2] == 3 else image


def save(path, image):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    image = (np.clip(image, 0, 1) * 255 + 0.5).astype(np.uint8)
    io.imsave(path, image[..., 0] if image.shape[2] == 1 else image, check_contrast=False)


def make(folder, c):
    rng, photo, materials = np.random.default_rng(c["seed"]), load(c["photo"]), foreign_materials()
    if "blur" in c:
        photo = each_channel(photo, lambda channel: ndimage.gaussian_filter(channel, c["blur"]))
    noise = lambda image: rng.normal(0, 0.01, image.shape)
    for part, count in [("train", 40), ("test", 16)]:
        for i in range(count):
            image = good(c, photo, rng, part == "train")
            save(f"{folder}/{part}/good/{i:03}.png", image + noise(image))
    for kind in c["kinds"]:
        for i in range(8):
            mask = np.zeros(1)
            while mask.sum() <= 25:
                image = good(c, photo, rng, False)
                defective, mask = defect(kind, image, rng, c, materials)
            mask = ndimage.binary_dilation(mask, iterations=2)
            save(f"{folder}/test/{kind}/{i:03}.png", np.where(mask[..., None], defective, image) + noise(image))
            save(f"{folder}/ground_truth/{kind}/{i:03}_mask.png", mask[..., None].astype(float))


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    for name, category in CATEGORIES.items():
        print(name, flush=True)
        make(os.path.join(sys.argv[1], name), category)
