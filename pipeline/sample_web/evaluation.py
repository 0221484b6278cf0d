"""The evaluation set, in CLIP_benchmark's WebDataset form: equally many new pictures of every class.

eval/classnames.txt, eval/zeroshot_classification_templates.txt ({c} is the class name)
eval/test/nshards.txt, eval/test/{0..}.tar with KEY.jpg, KEY.cls (label), KEY.txt (two captions)
"""

from __future__ import annotations

import io
import tarfile
from collections.abc import Sequence
from pathlib import Path

from pipeline.sample_web.dice import Dice
from pipeline.sample_web.phrases import EVALUATION_TEMPLATES, caption
from pipeline.sample_web.plan import Body
from pipeline.sample_web.scene import make_scene

__all__ = ["evaluation_bodies", "write_evaluation"]

_MOST_PER_CLASS = 8
_LINKS_PER_PICTURE = 750
"""One picture of each class for so many links of the web."""
_SAMPLES_PER_SHARD = 320


def evaluation_bodies(seed: int, links: int, classes: Sequence[str]) -> list[Body]:
    """The pictures, classes mixed; none of them is on a page."""
    per_class = max(1, min(_MOST_PER_CLASS, links // _LINKS_PER_PICTURE))
    bodies = []
    for number in range(per_class):
        for label in classes:
            colour, shape = label.split(" ")
            key = f"eval-{colour}-{shape}-{number}"
            scene = make_scene(seed, key, colour, shape)
            bodies.append(Body(key=f"{key}.jpg", form="jpeg", scene=scene))
    return Dice(seed, "evaluation order").shuffled(bodies)


def write_evaluation(seed: int, bodies: Sequence[Body], classes: Sequence[str], directory: Path) -> None:
    """Move the rendered pictures into the tars under `directory`/eval."""
    target = directory / "eval"
    (target / "test").mkdir(parents=True)
    (target / "classnames.txt").write_text("\n".join(classes) + "\n", encoding="utf-8")
    (target / "zeroshot_classification_templates.txt").write_text(
        "\n".join(EVALUATION_TEMPLATES) + "\n", encoding="utf-8"
    )
    shards = [bodies[i : i + _SAMPLES_PER_SHARD] for i in range(0, len(bodies), _SAMPLES_PER_SHARD)]
    (target / "test" / "nshards.txt").write_text(f"{len(shards)}\n", encoding="utf-8")
    for number, shard in enumerate(shards):
        with tarfile.open(target / "test" / f"{number}.tar", "w", format=tarfile.USTAR_FORMAT) as tar:
            for i, body in enumerate(shard):
                file = directory / "pictures" / body.key[:3] / body.key
                captions = [caption(Dice(seed, "evaluation", body.key, n), body.scene) for n in range(2)]
                label = classes.index(body.scene.label)
                key = f"s{number * _SAMPLES_PER_SHARD + i:07d}"
                _add(tar, f"{key}.jpg", file.read_bytes())
                _add(tar, f"{key}.cls", str(label).encode())
                _add(tar, f"{key}.txt", "\n".join(captions).encode())
                file.unlink()
    (directory / "pictures" / "eva").rmdir()


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)  # owner, group and time stay zero
    member.size = len(data)
    tar.addfile(member, io.BytesIO(data))
