from __future__ import annotations

import io
import tarfile
from collections import Counter
from pathlib import Path

import numpy as np
from PIL import Image

from pipeline.sample_web.render import render
from pipeline.sample_web.scene import make_scene
from pipeline.sample_web.vocabulary import COLOURS, EVALUATED_CLASSES, OBJECT_COUNTS, SHAPES


def test_the_evaluation_set_is_balanced_and_in_clip_benchmarks_form(sample_web: Path) -> None:
    root = sample_web / "eval"
    names = (root / "classnames.txt").read_text().splitlines()
    assert tuple(names) == EVALUATED_CLASSES
    assert len(names) == 80
    templates = (root / "zeroshot_classification_templates.txt").read_text().splitlines()
    assert all(template.count("{c}") == 1 for template in templates)
    labels: Counter[int] = Counter()
    num_shards = int((root / "test" / "nshards.txt").read_text())
    assert len(list((root / "test").glob("*.tar"))) == num_shards
    for number in range(num_shards):
        with tarfile.open(root / "test" / f"{number}.tar") as tar:
            files = {member.name: tar.extractfile(member).read() for member in tar}  # type: ignore[union-attr]  # all are files
        assert len(files) % 3 == 0
        for key in sorted({name.partition(".")[0] for name in files}):
            label = int(files[f"{key}.cls"])
            labels[label] += 1
            colour, shape = names[label].split(" ")
            captions = files[f"{key}.txt"].decode().split("\n")
            assert len(captions) == 2
            assert all(colour in caption.lower() and shape in caption.lower() for caption in captions)
            with Image.open(io.BytesIO(files[f"{key}.jpg"])) as image:
                assert image.format == "JPEG"
                assert min(image.size) >= 64
    assert set(labels) == set(range(80))
    assert len(set(labels.values())) == 1


def test_things_stand_out_in_their_colour() -> None:
    """A picture shows much of its colour and of its background's."""
    for number, thing in enumerate((*SHAPES, *OBJECT_COUNTS)):
        colour = tuple(COLOURS)[number % len(COLOURS)]
        scene = make_scene(0, f"test-{number}", colour, thing)
        image = render(0, scene)
        assert image.size == (scene.width, scene.height)
        distance = np.abs(np.asarray(image, np.int16) - np.array(COLOURS[colour], np.int16)).sum(axis=2)
        near = int((distance < 110).sum())
        assert near > 0.02 * scene.width * scene.height, scene
