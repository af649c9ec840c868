"""What all rows share: the scratch folder with networks and photos, the number of rounds, the bursts, a voice.

Everything is made when a row first asks for it, so that `--only` makes no more than it needs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from benchmarks import models
from benchmarks.rounds import take_turns
from benchmarks.subject import Subject, Turn

Value = Any
CALIBRATED_SIZE = 320
"""px of the short side at which activations show their ranges to int8."""


@dataclass
class Bench:
    """One run of the benchmark."""

    scratch: Path
    rounds: int
    full: bool
    say: Callable[[str], None] = lambda _text: None
    """Shows what happens now."""
    tiny: bool = False
    """Small networks, for tests of the benchmark itself."""
    series: dict[str, Any] = field(default_factory=dict)
    bursts: list[Mapping[str, float]] = field(default_factory=list)
    """See `benchmarks.floor`: one of each round of the model's way."""

    # --- what is measured on -----------------------------------------------------------------------------------------

    @cached_property
    def photo(self) -> Path:
        return models.draw_photo(self.scratch / "photos" / "small.jpg", models.PHOTO_SIZE)

    @cached_property
    def large_photo(self) -> Path:
        return models.draw_photo(self.scratch / "photos" / "large.jpg", models.LARGE_SIZE)

    @cached_property
    def dataset(self) -> Path:
        return models.draw_dataset(self.scratch / "pandas")

    def run(self, backbone: str, short_side: int, instances: int = models.INSTANCES) -> Path:
        """A run folder; all of one backbone have the same weights."""
        folder = self.scratch / "runs" / f"{backbone}-{short_side}-{instances}"
        if folder.is_dir():
            return folder
        preset = "quick" if self.tiny else "standard"
        cfg = models.network_cfg(backbone, short_side, instances, preset)
        first = self.scratch / "runs" / backbone
        if not first.is_dir():
            from maskserve.imaging.decode import decode_rgb

            self.say(f"making {models.TITLES[backbone]} with seeded weights")
            models.make_run(first, cfg, backbone, decode_rgb(self.photo.read_bytes()))
        return models.sibling_run(folder, first, cfg)

    def int8_trunk(self, backbone: str) -> Path:
        """trunk.xml, good for all runs of a backbone: they have the same weights, and its graph is free of sizes."""
        run = self.run(backbone, CALIBRATED_SIZE)
        made = run / "trunk.xml"
        if not made.is_file():
            self.say(f"quantizing {models.TITLES[backbone]}")
            with Subject("benchmarks.ours.predictor:int8_trunk", run=run, photo=self.photo) as subject:
                subject.step()
        return made

    # --- turns -------------------------------------------------------------------------------------------------------

    def turns(
        self, steps: Mapping[str, Callable[[], Value]], *, title: str, rounds: int | None = None, warm_ups: int = 1
    ) -> dict[str, tuple[Value, ...]]:
        """`take_turns` with this run's number of rounds, told to the person who waits."""
        rounds = rounds or self.rounds
        left = iter(range((rounds + warm_ups) * len(steps), 0, -1))

        def tell(name: str) -> None:
            self.say(f"{title}: {name}, {next(left)} turns left")

        return take_turns(steps, rounds, warm_ups=warm_ups, on_turn=tell)

    @contextmanager
    def subjects(self, wanted: Mapping[str, Subject], *, title: str) -> Iterator[dict[str, Callable[[], Turn]]]:
        """The steps of subjects that are started together and stopped together."""
        with ExitStack() as stack:
            for subject in wanted.values():
                stack.callback(subject.stop)
                subject.start()
            steps = {}
            for name, subject in wanted.items():
                self.say(f"{title}: loading {name}")
                steps[name] = stack.enter_context(subject).step
            yield steps
