"""One command, one trained arm: data, initial weights, config ─▶ Detectron2's trainer ─▶ a complete run folder.

    job ─▶ data checked, prepare (new) | reopen (--resume) ─▶ steps, here or in a process for each GPU
        ─▶ best weights by validation mask AP ─▶ AP on the test split ─▶ run folder in place

The best checkpoint is chosen on val.json or, where there is none, on a tenth of the training photos that is then not
trained on; never on the test split, which is evaluated once, at the end.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial

from detectron2.config import CfgNode
from detectron2.utils.env import seed_all_rng

from maskserve.modeling.complexity import describe, measure_complexity, typical_size
from maskserve.modeling.config import merge_overrides
from maskserve.modeling.network import backbone_name, build_network, network_name
from maskserve.modeling.predictor import Predictor
from maskserve.protos.errors import ConfigError
from maskserve.training.alone import alone
from maskserve.training.anchors import fit_anchors
from maskserve.training.curves import draw_curves, read_log
from maskserve.training.datasets.manifest import Dataset, dataset_dicts, load_dataset
from maskserve.training.evaluate import Evaluation, evaluate
from maskserve.training.evaluation_run import write_results
from maskserve.training.hooks import Progress, Quiet, write_last
from maskserve.training.job import INIT, SEED, Job, pairs
from maskserve.training.preflight import check_data
from maskserve.training.presets import ARMS, resolve_cfg
from maskserve.training.process import log_to
from maskserve.training.ranks import run_steps_in_ranks
from maskserve.training.run_folder import RunFolder, git_commit, publish, versions
from maskserve.training.samples import sample_sheet
from maskserve.training.steps import OUTCOME, SETUP, Outcome, run_steps
from maskserve.training.validation import split
from maskserve.training.weights import find_weights, load_into

ANCHORS = frozenset({"MODEL.ANCHOR_GENERATOR.SIZES", "MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS"})
"""Given on the command line they are not fitted."""


@dataclass(frozen=True)
class Trained:
    """A complete run."""

    run: RunFolder
    evaluation: Evaluation
    outcome: Outcome


def check(job: Job) -> None:
    """What can be known before this job, or another one before it, takes its time.

    Raises:
        ConfigError: it cannot be done as asked, or shall go on with a training that was begun otherwise.
        DataError: the labelled data cannot be read.
    """
    job.check()
    if job.machines.rank > 0 or not (job.resume and job.run.last.is_file()):
        return
    setup = job.run.read_json(SETUP)
    if setup["data_hash"] != load_dataset(job.data).train.data_hash:
        raise ConfigError(
            f"the interrupted training of {job.backbone} used other photos, labels or splits ({setup['data']}, as it "
            "was then); name the folder that has them with --data, or start anew without --resume"
        )
    if difference := job.difference(setup):
        raise ConfigError(
            f"the interrupted training of {job.backbone} began with {difference}, which --resume keeps; say the same, "
            "or start anew without --resume"
        )


def train(job: Job, progress: Progress | None = None, on_bytes: Callable[[int, int], None] | None = None) -> Trained:
    """Train one arm and return its run folder.

    Raises:
        ConfigError: the job cannot be done as asked, another process trains there, or the training diverged.
        DataError: the labelled data cannot be used, or has errors and is not forced.
        KeyboardInterrupt: stopped; all steps done so far are kept for --resume.
    """
    check(job)
    with alone(job.run.path):
        return _train(job, progress or Quiet(), on_bytes)


def _train(job: Job, progress: Progress, on_bytes: Callable[[int, int], None] | None) -> Trained:
    dataset = load_dataset(job.data)
    run = job.run
    if job.resume and not run.last.is_file():
        progress.note(f"{job.backbone}: nothing to resume in {job.output}; starts anew")
        job = replace(job, resume=False)
    if job.resume:
        job = _reopen(job)
    else:
        _prepare(job, dataset, progress, on_bytes)
    if not (run.path / OUTCOME).is_file():
        (run_steps if job.machines.processes == 1 else run_steps_in_ranks)(job, progress)
    outcome = Outcome(**run.read_json(OUTCOME))
    if outcome.stopped_early:
        progress.note(
            f"{job.backbone}: stopped early at step {outcome.steps}, the weights of step {outcome.best_step} are kept"
        )
    with log_to(run.path / "train.log"):
        evaluation = _finish(run, dataset, outcome, progress)
    complete = publish(run, job.folder, progress.note)
    # until here --resume could go on
    for leftover in (complete.log, complete.path / SETUP, complete.path / OUTCOME, complete.last):
        leftover.unlink(missing_ok=True)
    return Trained(complete, evaluation, outcome)


def assist(job: Job, progress: Progress | None = None) -> None:
    """Lend this machine's GPUs to the training that machine 0 leads; nothing is written here.

    Raises: as `train` does.
    """
    job.check()
    run_steps_in_ranks(job, progress or Quiet())


def is_complete(job: Job) -> bool:
    """Whether the run folder holds this job's training (same photos, same options) and none is under way."""
    if job.run.last.is_file() or not (job.folder / "run.json").is_file():
        return False
    facts = RunFolder(job.folder).read_json("run.json")
    return facts.get("data_hash") == load_dataset(job.data).train.data_hash and job.difference(facts) is None


def _prepare(job: Job, dataset: Dataset, progress: Progress, on_bytes: Callable[[int, int], None] | None) -> None:
    """A new working folder: config, classes, how it is made, and the initial weights as last.pth of step 0."""
    arm, run = ARMS[job.backbone], job.run
    init, seed = job.init or INIT, SEED if job.seed is None else job.seed
    resolve = partial(
        resolve_cfg,
        arm,
        preset=job.preset,
        class_count=len(dataset.train.class_names),
        seed=seed,
        overrides=job.overrides,
    )
    backbone = backbone_name(resolve(recipe="none"))  # which network is asked for decides which weights fit
    errors = check_data(job.data, dataset.train.data_hash, force=job.force, progress=progress)
    weights = find_weights(arm, backbone, init, job.preset, say=progress.note, on_bytes=on_bytes or (lambda *_: None))
    cfg = resolve(recipe=weights.recipe, recipe_values=weights.recipe_values)
    if cfg.MODEL.ANCHOR_GENERATOR.FIT and not ANCHORS.intersection(job.overrides[::2]):
        cfg = fit_anchors(cfg, split(dataset).records, say=progress.note)
    _check_share(cfg, job)
    seed_all_rng(seed)
    model = build_network(_on_cpu(cfg))
    loaded = load_into(model, weights)
    complexity = measure_complexity(model, typical_size(cfg))
    progress.note(f"{arm.backbone}: {network_name(cfg)}, {describe(complexity)}")
    if run.path.exists():
        progress.note(f"{arm.backbone}: an interrupted training is discarded (--resume would have continued it)")
        shutil.rmtree(run.path)
    run.path.mkdir(parents=True)
    run.write("config.yaml", lambda path: path.write_text(cfg.dump(), encoding="utf-8"))
    run.write_json("classes.json", list(dataset.train.class_names))
    setup = {
        "model": arm.model,
        "arm": arm.backbone,
        "backbone": backbone_name(cfg),
        "network": network_name(cfg),
        "complexity": complexity.to_json(),
        "preset": job.preset,
        "seed": seed,
        "deterministic": job.deterministic,
        "init": {
            "asked": init,
            "kind": weights.kind,
            "source": weights.source,
            "loaded": loaded,
            "licence": weights.licence,
        },
        "data": str(dataset.train.path.parent),
        "data_hash": dataset.train.data_hash,
        "data_errors": errors,
        "overrides": list(job.overrides),
    }
    run.write_json(SETUP, setup)
    write_last(run, 0, 0.0, model.state_dict(), None)


def _reopen(job: Job) -> Job:
    """Let an interrupted training go on, with a lower rate if one is given; the job as it was begun."""
    run = job.run
    setup = run.read_json(SETUP)
    cfg = run.load_cfg()
    _check_share(cfg, job)
    was = pairs(setup["overrides"])
    changed = [word for key, value in pairs(job.overrides).items() if was.get(key) != value for word in (key, value)]
    overrides = (*setup["overrides"], *changed)
    if job.overrides:
        merge_overrides(cfg, job.overrides)
        run.write("config.yaml", lambda path: path.write_text(cfg.dump(), encoding="utf-8"))
        run.write_json(SETUP, {**setup, "overrides": overrides})
    begun = {"init": setup["init"].get("asked"), "seed": setup["seed"], "overrides": overrides}
    return replace(job, **begun, deterministic=setup.get("deterministic", False))


def _check_share(cfg: CfgNode, job: Job) -> None:
    photos, parts = cfg.SOLVER.IMS_PER_BATCH, cfg.SOLVER.ACCUMULATE * job.machines.processes
    if photos % parts:
        accumulated = f" in {cfg.SOLVER.ACCUMULATE} parts" if cfg.SOLVER.ACCUMULATE > 1 else ""
        raise ConfigError(
            f"SOLVER.IMS_PER_BATCH {photos} cannot be shared by {job.machines.processes} GPUs{accumulated}; "
            f"choose a multiple of {parts}"
        )


def _on_cpu(cfg: CfgNode) -> CfgNode:
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.DEVICE = "cpu"
    return cfg


def _finish(run: RunFolder, dataset: Dataset, outcome: Outcome, progress: Progress) -> Evaluation:
    """AP on held-out photos, and the run's record."""
    class_names = dataset.train.class_names
    predictor = Predictor(run.load_cfg(), class_names, weights=run.weights)
    measured, manifest = ("test", dataset.test) if dataset.test else ("val", dataset.val)
    if manifest is None:
        measured, manifest = "train", dataset.train
        progress.note("no test.json and no val.json: AP is measured on the training photos and says little")
    evaluation = evaluate(predictor, manifest, split=measured)
    write_results(run, evaluation, sample_sheet(predictor, dataset_dicts(manifest)))
    rows = read_log(run.log)
    run.write_json("metrics.json", rows)
    setup = run.read_json(SETUP)
    run.write("curves.png", lambda path: draw_curves(rows, path, f"{setup['model']} · {setup['preset']}"))
    record = {
        **setup,
        **asdict(outcome),
        "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "git_commit": git_commit(),
        "versions": versions(),
    }
    run.write_json("run.json", record)
    return evaluation
