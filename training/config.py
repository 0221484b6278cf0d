"""Every option of a training run, and which of them change what is learnt.

    TrainConfig
    |- data        DataConfig: DataSet, AugmentConfig,     training/data
    |              CaptionsConfig
    |              MetaclipConfig, ConceptConfig           training/data/sampling
    |- model       ModelConfig                             training/learning/model.py
    |- method      MethodConfig                            training/learning/method.py, methods/
    |- loss        LossConfig                              training/learning/methods/contrastive.py
    |- optimiser   OptimiserConfig                         training/learning/optimiser.py, rates.py, averaging.py
    |- phases      Phase                                   training/run/phases.py
    |- checkpoint  CheckpointConfig                        training/checkpoints
    |- evaluation  EvaluationConfig                        training/evaluation
    |- log         LogConfig                               training/run/log.py, sinks.py
    |- profile     ProfileConfig                           training/run/profiling.py
    |- plan        PlanConfig                              training/plan.py
    `- ray         RayConfig                               training/launch_ray.py

On one page below all rooms, not each beside what it configures: that imports torch, which neither `--help` nor a
mistake in a config shall wait for.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, Literal, cast

from configs.bounds import Bounds
from configs.load import ConfigError, check_bounds, fingerprint
from pipeline.errors import PipelineError
from pipeline.storage.bucket import is_bucket_url
from pipeline.storage.place import place_of

__all__ = [
    "AugmentConfig",
    "CaptionsConfig",
    "CheckpointConfig",
    "ConceptConfig",
    "DataConfig",
    "DataSet",
    "EvaluationConfig",
    "LogConfig",
    "LossConfig",
    "MetaclipConfig",
    "MethodConfig",
    "ModelConfig",
    "OptimiserConfig",
    "Phase",
    "PlanConfig",
    "Precision",
    "ProfileConfig",
    "RayConfig",
    "TrainConfig",
    "learns",
    "total_samples",
]


@dataclass(frozen=True, kw_only=True)
class DataSet:
    """One of several data sets."""

    path: str
    """Directory of shards, or its URL in a bucket."""
    weight: Annotated[float, Bounds(above=0)] | None = None
    """Its share of the samples, relative to the others'; null in all entries joins them to one data set."""

    def __post_init__(self) -> None:
        check_bounds(self)


@dataclass(frozen=True, kw_only=True)
class AugmentConfig:
    """Random crops, as CLIP's (section 2.5: a random square crop is the only augmentation): torchvision's
    RandomResizedCrop."""

    min_crop_area: Annotated[float, Bounds(above=0, most=1)] = 0.9
    """Smallest share of the picture's area that a crop covers; 0.9 is open_clip's default, 1 takes all. Only pictures
    longer than `max_crop_aspect` may be cut further."""
    max_crop_aspect: Annotated[float, Bounds(least=1)] = 4 / 3
    """Widest crop before it is made square, as width over height or its inverse; 1 keeps shapes as they are."""
    flip_probability: Annotated[float, Bounds(least=0, most=1)] = 0.0
    """Chance of a mirrored picture. CLIP uses none: captions name left and right, and text would be mirrored."""
    min_decoded_sides: Annotated[float, Bounds(least=1)] = 2.0
    """JPEGs are decoded at a half, a quarter or an eighth of their size as long as both sides are left with this many
    times the model's picture. 2 is near whole decoding, 1 a third faster for pictures twice the model's, and less
    near; docs/training.md has the figures."""

    def __post_init__(self) -> None:
        check_bounds(self)


@dataclass(frozen=True, kw_only=True)
class MetaclipConfig:
    """With sampling metaclip: MetaCLIP's balance (arXiv 2309.16671, section 3.2), drawn anew in each epoch."""

    max_pairs_per_query: Annotated[int, Bounds(least=1)] = 20_000
    """t: a query draws each of its samples with probability t / count, or 1 where it has fewer; MetaCLIP has 20,000 for
    400 M pairs and 170,000 for 2.5 B."""
    tail_share: Annotated[float, Bounds(above=0, below=1)] | None = None
    """Derive t from the counts instead, as the pipeline's `balance.tail_share`: the smallest t such that the queries
    with at most t samples hold this share of all matches (0..1)."""

    def __post_init__(self) -> None:
        check_bounds(self)


@dataclass(frozen=True, kw_only=True)
class ConceptConfig:
    """With sampling concept: batches chosen by their queries, after CABS (arXiv 2511.20643)."""

    prefer: Literal["diversity", "frequency"] = "diversity"
    """diversity: as many queries as can be, each about as often (CABS-DM). frequency: the samples with most queries
    (CABS-FM)."""
    super_batch: Annotated[int, Bounds(least=2)] = 5
    """Global batches that each batch is chosen from; the others' samples are passed over, unread. 5 is CABS's."""
    max_pairs_per_query: Annotated[int, Bounds(least=1)] | None = None
    """With diversity: after how many samples of a batch a query attracts no more; null takes the flattest cap that each
    super-batch allows."""

    def __post_init__(self) -> None:
        check_bounds(self)


@dataclass(frozen=True, kw_only=True)
class CaptionsConfig:
    """Several captions a sample, of which each epoch sees one, drawn by the sample's key."""

    path: str | None = None
    """Parquet with columns `uid` and `captions` (a list of strings), or a directory of such files, here or in a
    bucket: what `python -m training caption` writes. Null: each sample has its own caption alone."""
    own_probability: Annotated[float, Bounds(least=0, most=1)] = 0.5
    """How often a sample comes with its own caption; else with one of the others, all alike. One that has no others
    comes with its own."""

    def __post_init__(self) -> None:
        check_bounds(self)


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """What to train on."""

    path: str | None = None
    """Directory of shards, or its URL in a bucket (s3://, gs://, az://): one that the pipeline wrote, or tars of
    img2dataset or WebDataset."""
    mixture: tuple[DataSet, ...] = ()
    """Several directories instead of one path: a list of {path, weight}."""
    follow: bool = False
    """Look for new shards at the end of each epoch: train while they are being written."""
    num_workers: Annotated[int, Bounds(least=0, most=4096)] = 2
    """Processes per rank that read, decode and tokenise; 0 does it in the training process."""
    prefetch_chunks: Annotated[int, Bounds(least=1, most=4096)] = 4
    """Chunks of up to 256 samples that each worker prepares ahead."""
    order: Literal["auto", "samples", "window"] = "auto"
    """samples: any sample of the set may follow any other; for disks. window: whole shards are read, `window` of them
    at a time. auto: window where data lies in a bucket. A run keeps the order that it began with."""
    window: Annotated[int, Bounds(least=1)] = 64
    """Shards that are open at a time, over all ranks, with order window; best a multiple of the number of ranks."""
    scratch_gb: Annotated[float, Bounds(above=0)] = 32.0
    """The most that a rank's copies of shards from a bucket may take of TMPDIR."""
    sampling: Literal["uniform", "metaclip", "concept"] = "uniform"
    """uniform: every sample once an epoch. metaclip: each with the probability of MetaCLIP's balance, anew in each
    epoch; for a set that is not balanced. concept: batches chosen by the queries of their samples."""
    metaclip: MetaclipConfig = field(default_factory=MetaclipConfig)
    """With sampling metaclip."""
    concept: ConceptConfig = field(default_factory=ConceptConfig)
    """With sampling concept."""
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    """Random crops."""
    captions: CaptionsConfig = field(default_factory=CaptionsConfig)
    """More captions than each sample's own."""
    reinforced: tuple[str, ...] = ()
    """What `python -m training reinforce` made of the data, a directory for each of the paths: their augmentations
    stand for `augment`, and batches hold what teachers say of them, and synthetic captions."""

    @property
    def lanes(self) -> int | None:
        """`window` where whole shards are read; None where any sample may follow any other."""
        in_bucket = any(is_bucket_url(path) for path in self.paths)
        return self.window if self.order == "window" or (self.order == "auto" and in_bucket) else None

    @property
    def paths(self) -> tuple[str, ...]:
        """All directories."""
        return tuple(entry.path for entry in self.mixture) if self.path is None else (self.path,)

    @property
    def weights(self) -> tuple[float, ...]:
        """The weights; empty where the data sets are one, passed through whole in each epoch."""
        return tuple(entry.weight for entry in self.mixture if entry.weight is not None)

    def __post_init__(self) -> None:
        check_bounds(self)
        if (self.path is None) == (not self.mixture):
            raise ConfigError("give either path or mixture (one of the two)")
        weighted = [entry.weight is not None for entry in self.mixture]
        if any(weighted) and not all(weighted):
            raise ConfigError("mixture: give all entries a weight, or none")
        if self.sampling != "uniform" and self.follow and self.weights:
            raise ConfigError(
                f"sampling {self.sampling} ends the passes of weighted data sets at different places, and follow looks "
                "again where all end; leave the weights out, or one of the two"
            )
        if self.captions.path is not None:
            _check_place("captions.path", self.captions.path)
        self._check_reinforced()
        for path in self.paths:
            _check_place("path", path)
            if self.order == "samples" and is_bucket_url(path):
                raise ConfigError(
                    f"order samples reads {path} at random, a request for each picture; set --data.order window, or "
                    "copy the shards to a disk"
                )

    def _check_reinforced(self) -> None:
        if not self.reinforced:
            return
        if len(self.reinforced) != len(self.paths):
            raise ConfigError(
                f"reinforced names {len(self.reinforced)} directories, and the data has {len(self.paths)} paths; give "
                "one for each"
            )
        if self.captions.path is not None:
            raise ConfigError(
                "captions.path and reinforced are both given; teachers know the captions of reinforced alone: give "
                "--captions to `python -m training reinforce`, and leave captions.path out"
            )
        if replace(self.augment, min_decoded_sides=AugmentConfig().min_decoded_sides) != AugmentConfig():
            raise ConfigError("augment does nothing to reinforced data, whose augmentations are its own; leave it out")
        if self.follow:
            raise ConfigError(
                "follow takes new shards, and nothing reinforces them; leave it out, and reinforce again what has grown"
            )
        for path in self.reinforced:
            _check_place("reinforced", path)
            if is_bucket_url(path):
                raise ConfigError(
                    f"reinforced: {path} is read at random, a request for each sample; copy it to a disk that all "
                    "processes see"
                )


Precision = Literal["auto", "fp32", "bf16"]


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Which model to train."""

    name: str
    """An open_clip model (ViT-B-32, RN50, ...), or the path of a model JSON of the same form."""
    tokenizer: str | None = None
    """A sentencepiece model (spiece.model), or a directory with the files of a Hugging Face tokenizer; null takes the
    model's own: CLIP's, which is always at hand, or what its JSON names."""
    normalisation: Literal["clip", "inception"] = "clip"
    """What pixels are brought to: clip, mean 0 and deviation 1 over CLIP's pictures; inception, [-1, 1] (SigLIP, and
    OpenCLIP's ViT-L/14 on LAION-2B)."""
    patch_dropout: Annotated[float, Bounds(least=0, below=1)] = 0.0
    """Share of image patches left out while training, drawn per sample (FLIP, arXiv 2212.00794)."""
    conv_stem: tuple[Annotated[int, Bounds(least=8)], ...] = ()
    """Channels of convolutions of stride 2 that make a ViT's patches in the place of one wide convolution: [16, 32, 64,
    128] for patches of 16 pixels. A small ViT sees shapes far sooner with it (arXiv 2106.14881). open_clip knows none
    such, so it cannot be exported to there."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: about a third more compute, far less memory."""
    compile: bool = False
    """Use torch.compile on both towers, or on each layer of sharded ones: minutes at the start, faster steps on a
    GPU."""
    init_from: str | None = None
    """Start from these weights instead of random ones: a file (open_clip's .pt or .safetensors), the
    directory of a run (its last checkpoint) or of an export; the URL of such in a bucket; a tag of open_clip
    (laion2b_s34b_b79k), or hf-hub:ORGANISATION/NAME."""
    init_towers: Literal["both", "image", "text"] = "both"
    """Which towers of `init_from` to take; the others, and the temperature, begin anew."""
    init_image_from: str | None = None
    """Start the image tower from these weights, a file of one such tower alone, as masked image modelling or a
    classifier leaves it (timm's .safetensors, .pt, .npz; what stands above the layers may lack and begins anew); after
    `init_from`, which may be of other towers."""
    init_text_from: str | None = None
    """Start a text tower of Hugging Face's (text_cfg.hf_model_name in the model's JSON) from the weights in this
    directory, as masked language modelling leaves them: config.json, model.safetensors or pytorch_model.bin."""
    init_text_positions: Literal["interpolate", "stretch"] = "interpolate"
    """Where `init_from` has another number of text positions: interpolate all of them, as open_clip does; or stretch,
    for longer texts: the first 20 stay, those behind are interpolated (Long-CLIP, arXiv 2403.15378)."""
    lock_image: bool = False
    """Leave the image tower as `init_from` or `init_image_from` made it and train the texts to it (LiT, arXiv
    2111.07991). Of timm's towers a projection that open_clip adds is trained all the same."""
    unlocked_image_groups: Annotated[int, Bounds(least=0)] = 0
    """With lock_image: this many of the last layer groups are trained all the same."""

    def __post_init__(self) -> None:
        check_bounds(self)
        has_image = self.init_image_from is not None or (self.init_from is not None and self.init_towers != "text")
        if self.lock_image and not has_image:
            raise ConfigError("lock_image would freeze random weights; set init_from to a trained image tower")
        if self.unlocked_image_groups and not self.lock_image:
            raise ConfigError("unlocked_image_groups does nothing without lock_image")
        if self.init_text_positions != "interpolate" and (self.init_from is None or self.init_towers == "image"):
            raise ConfigError("init_text_positions is of a text tower that init_from brings; leave it out")

    def as_read(self, weights: str | None = None) -> ModelConfig:
        """The same model, to be read from `weights` rather than trained."""
        return ModelConfig(
            name=self.name, tokenizer=self.tokenizer, normalisation=self.normalisation, conv_stem=self.conv_stem,
            init_from=weights,
        )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class MethodConfig:
    """What the model learns from a batch."""

    name: str = "contrastive"
    """contrastive (CLIP, OpenCLIP, MetaCLIP, SigLIP and others), distillation (MobileCLIP), coca, blip, siglip2,
    qformer and qformer_lm (BLIP-2); or a method of one's own, MODULE:CLASS."""
    options: dict[str, Any] = field(default_factory=dict)
    """Those of the method, by name."""


@dataclass(frozen=True, kw_only=True)
class LossConfig:
    """How pictures and texts are told apart."""

    name: Literal["softmax", "sigmoid"] = "softmax"
    """softmax: CLIP's symmetric cross-entropy over the global batch. sigmoid: SigLIP's loss."""
    init_temperature: Annotated[float, Bounds(above=0)] | None = None
    """Initial temperature; null for the paper's: 0.07 (CLIP, section 2.5), 0.1 (SigLIP, section 3.2)."""
    init_bias: Annotated[float, Bounds()] | None = None
    """With sigmoid: the bias that logits begin with; null for the paper's -10, which suits tens of thousands a batch.
    -ln(B - 1) begins with the share of true pairs that a batch of B has. A short run does not get far from it."""
    label_smoothing: Annotated[float, Bounds(least=0, below=1)] = 0.0
    """With softmax: how much of each true pair's weight is spread over all pairs of its row and column (ALIGN, arXiv
    2102.05918, has 0.1)."""
    max_logit_scale: Annotated[float, Bounds(least=1)] = 100.0
    """The learnt scale is clamped to this after each step (CLIP, section 2.5)."""
    chunk_rows: Annotated[int, Bounds(least=1)] = 4096
    """Rows and columns of a tile of the similarity matrix, which is never whole in memory: 4096 takes 250 MB."""
    features: Literal["fp32", "bf16"] = "fp32"
    """What features are gathered and kept in; tiles are computed in float32 either way. bf16 halves both for batches of
    hundreds of thousands."""

    def __post_init__(self) -> None:
        check_bounds(self)
        if self.init_bias is not None and self.name != "sigmoid":
            raise ConfigError(f"init_bias is of the sigmoid loss, and name is {self.name}; leave it out")
        if self.label_smoothing and self.name != "softmax":
            raise ConfigError(f"label_smoothing is of the softmax loss, and name is {self.name}; leave it out")


@dataclass(frozen=True, kw_only=True)
class OptimiserConfig:
    """How to step, with warm-up and decay of the learning rate."""

    name: Literal["adamw", "lamb"] = "adamw"
    """adamw: CLIP's. lamb: each matrix steps in proportion to its own length (arXiv 1904.00962), for large batches."""
    learning_rate: Annotated[float, Bounds(above=0)] = 5e-4
    """Peak learning rate. 5e-4 is CLIP's for ViT-B/32 at batch 32,768 (table 20)."""
    image_learning_rate: Annotated[float, Bounds(above=0)] | None = None
    """Peak learning rate of the image tower; null for `learning_rate`."""
    text_learning_rate: Annotated[float, Bounds(above=0)] | None = None
    """Peak learning rate of the text tower; null for `learning_rate`."""
    image_layer_decay: Annotated[float, Bounds(above=0, most=1)] = 1.0
    """Each layer of the image tower learns at this many times the rate of the one above it; 1 for all alike (BEiT's
    layer-wise decay, arXiv 2106.08254). What stands below the first layer is a layer of its own, what stands above the
    last one learns at the tower's rate."""
    text_layer_decay: Annotated[float, Bounds(above=0, most=1)] = 1.0
    """The same of the text tower."""
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    """How the rate falls after the warm-up: half a cosine or a line down to `final_learning_rate` at the end; or not at
    all, until `cooldown_samples` before the end."""
    final_learning_rate: Annotated[float, Bounds(least=0)] = 0.0
    """Learning rate at the end of the run; of towers with a rate of their own in proportion."""
    warmup_samples: Annotated[int, Bounds(least=0)] = 0
    """Samples over which the learning rate rises linearly from 0."""
    cooldown_samples: Annotated[int, Bounds(least=0)] = 0
    """With schedule constant: the samples at the end of the run over which the rate falls, in a line."""
    weight_decay: Annotated[float, Bounds(least=0)] = 0.2
    """Decoupled weight decay on matrices; gains, biases and the logit scale have none (CLIP, section 2.5)."""
    beta1: Annotated[float, Bounds(least=0, below=1)] = 0.9
    """The first moment's beta (CLIP, table 18)."""
    beta2: Annotated[float, Bounds(least=0, below=1)] = 0.98
    """The second moment's beta: 0.98 for ViTs, 0.999 for ResNets (CLIP, table 18)."""
    eps: Annotated[float, Bounds(above=0)] = 1e-6
    """Epsilon: 1e-6 for ViTs, 1e-8 for ResNets (CLIP, table 18)."""
    max_gradient_norm: Annotated[float, Bounds(above=0)] | None = None
    """Scale the gradient down to this norm when it is longer; null never does."""
    ema_decay: Annotated[float, Bounds(above=0, below=1)] | None = None
    """Keep an exponential moving average of the weights, of which this share stays at each step, and evaluate and
    export that; null keeps none."""

    def __post_init__(self) -> None:
        check_bounds(self)
        if self.cooldown_samples and self.schedule != "constant":
            raise ConfigError(
                f"cooldown_samples is of schedule constant, and schedule is {self.schedule}; leave it out"
            )


@dataclass(frozen=True, kw_only=True)
class Phase:
    """A part of the run, until the next phase begins. What is null is as the model has it."""

    begins_at: Annotated[float, Bounds(least=0, below=1)]
    """Share of the run's samples after which it begins, in [0, 1)."""
    image_size: Annotated[int, Bounds(least=1)] | None = None
    """Side of the pictures in pixels; null for the model's."""
    context_length: Annotated[int, Bounds(least=1)] | None = None
    """Longest text in tokens, at most the model's; null for the model's."""
    micro_batches: Annotated[int, Bounds(least=1)] | None = None
    """As the run's `micro_batches`; null for the run's."""
    patch_dropout: Annotated[float, Bounds(least=0, below=1)] | None = None
    """As `model.patch_dropout`, which must not be 0; null for the model's. 0 tunes with whole pictures (FLIP)."""

    def __post_init__(self) -> None:
        check_bounds(self)


@dataclass(frozen=True, kw_only=True)
class CheckpointConfig:
    """When to save, and what to keep."""

    every_samples: Annotated[int, Bounds(least=1)] | None = None
    """Save after about this many samples; null saves at the end, and on SIGTERM or Ctrl-C."""
    keep: Annotated[int, Bounds(least=1)] = 2
    """How many of the newest checkpoints stay on disk."""

    def __post_init__(self) -> None:
        check_bounds(self)


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    """What to evaluate on, and how often."""

    path: str | None = None
    """Evaluation set: a directory, a list, or its URL in a bucket (docs/evaluate.md has the forms). Without it and
    without `sets` nothing is evaluated."""
    sets: tuple[str, ...] = ()
    """More of them; their metrics are called by the set's name, a slash and the metric."""
    every_samples: Annotated[int, Bounds(least=1)] | None = None
    """Evaluate after about this many samples; null only at the end."""
    at_end: bool = True
    """Evaluate what was learnt in the end; false where something else measures that."""
    batch_size: Annotated[int, Bounds(least=1)] = 256
    """Pictures or texts embedded at a time, on each rank."""

    def __post_init__(self) -> None:
        check_bounds(self)
        if self.path is not None:
            _check_place("path", self.path)
        for path in self.sets:
            _check_place("sets", path)

    @property
    def measures(self) -> bool:
        """Whether there is a set to evaluate on."""
        return self.path is not None or bool(self.sets)

    @property
    def is_idle(self) -> bool:
        """Whether it says how often to evaluate, and not on what."""
        return self.every_samples is not None and not self.measures


@dataclass(frozen=True, kw_only=True)
class LogConfig:
    """How much to write down."""

    every_steps: Annotated[int, Bounds(least=1)] = 10
    """Steps between two lines of log.jsonl; loss and rates are means over them."""
    tensorboard: bool = True
    """Write TensorBoard files to RUN/tensorboard, where `sinks` names it."""
    sinks: tuple[Literal["tensorboard", "wandb"], ...] = ("tensorboard",)
    """Where figures go besides log.jsonl. wandb: Weights & Biases, in RUN/wandb for `wandb sync`, or sent at once where
    WANDB_MODE=online; the package is not one of ours."""

    def __post_init__(self) -> None:
        check_bounds(self)


@dataclass(frozen=True, kw_only=True)
class ProfileConfig:
    """Which steps to trace with torch.profiler, on every rank."""

    steps: Annotated[int, Bounds(least=0)] = 0
    """How many steps; 0 traces none. A traced step is slower, and its trace takes megabytes."""
    after: Annotated[int, Bounds(least=1)] = 10
    """Steps before the first traced one, counted from where this process began: the first ones warm up."""

    def __post_init__(self) -> None:
        check_bounds(self)


@dataclass(frozen=True, kw_only=True)
class PlanConfig:
    """For what machines a config is meant: `python -m training plan` reckons with it, and a run does not ask."""

    gpus: Annotated[int, Bounds(least=1)] = 1
    """GPUs, a process each."""
    gpu_memory_gb: Annotated[float, Bounds(above=0)] = 80.0
    """Memory of each, in 10^9 bytes."""

    def __post_init__(self) -> None:
        check_bounds(self)


@dataclass(frozen=True, kw_only=True)
class RayConfig:
    """Ray Train's part of a run; with `launcher: ray`."""

    address: str | None = None
    """Address of a Ray cluster (host:port or ray://...); null takes RAY_ADDRESS, else starts a Ray on this machine."""
    num_workers: Annotated[int, Bounds(least=1)] = 1
    """Processes, one a GPU where `device` is not cpu and there are GPUs."""
    min_workers: Annotated[int, Bounds(least=1)] | None = None
    """Go on with as few as this when nodes leave, and with up to `num_workers` when they come back; null: all or
    none."""
    cpus_per_worker: Annotated[float, Bounds(above=0)] = 1.0
    """CPUs that Ray sets aside for each process and its data workers."""
    max_failures: Annotated[int, Bounds(least=0)] = 3
    """How often the processes are started again after one of them died, each time from the last checkpoint."""

    def __post_init__(self) -> None:
        check_bounds(self)
        if self.min_workers is not None and self.min_workers > self.num_workers:
            raise ConfigError(f"min_workers must lie in [1, num_workers {self.num_workers}], got {self.min_workers}")


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """A training run."""

    output: str
    """Directory of the run, or its URL in a bucket: checkpoints, logs, metrics, the resolved config."""
    data: DataConfig
    """What to train on."""
    model: ModelConfig
    """Which model to train."""
    epochs: Annotated[float, Bounds(above=0, most=1e6)] | None = None
    """Length of the run in passes over the data, of each of which `data.sampling` may take a part; give this or
    `samples`."""
    samples: Annotated[int, Bounds(least=1)] | None = None
    """Length of the run in samples; rounded up to whole batches."""
    global_batch_size: Annotated[int, Bounds(least=2, most=10**8)] = 256
    """Pairs per step over all ranks: each picture is told apart from this many texts."""
    micro_batches: Annotated[int, Bounds(least=1)] = 1
    """Parts that a rank cuts its batch into, to fit memory; the gradient stays exact, at a third more compute."""
    phases: tuple[Phase, ...] = ()
    """Parts of the run with other picture sizes or text lengths: a list of {begins_at, image_size, context_length,
    micro_batches, patch_dropout}."""
    seed: Annotated[int, Bounds()] = 0
    """Decides weights, order, crops and dropout."""
    precision: Precision = "auto"
    """auto, fp32 or bf16 (mixed: weights stay fp32). auto takes bf16 where the hardware multiplies it."""
    tf32: bool = False
    """On a GPU, multiply what stays fp32 in TF32: with precision fp32 everything, else the loss's logits."""
    cudnn_benchmark: bool = False
    """On a GPU, time the convolutions' algorithms and take the fastest, which may be another one in another run."""
    distributed: Literal["ddp", "fsdp"] = "ddp"
    """What several processes share: ddp, the batch alone; fsdp, the weights and their optimiser state as well
    (fully sharded, torch's FSDP2), for models that do not fit on one device. The gradient is the same."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto takes a GPU when there is one."""
    threads: Annotated[int, Bounds(least=1, most=4096)] | None = None
    """CPU threads of the training process; null leaves torch's choice."""
    single_driver: bool = False
    """You see to it that one run at a time writes to an `output` in a bucket: for stores that cannot compare and swap,
    in which two could not be told apart."""
    on_non_finite: Literal["skip", "stop"] = "skip"
    """A NaN or infinite loss or gradient: skip the step on all ranks and count it, or stop."""
    max_skipped_in_a_row: Annotated[int, Bounds(least=0)] = 20
    """Stop after this many skipped steps in a row, whatever `on_non_finite` says."""
    collective_timeout_s: Annotated[float, Bounds(above=0, most=1e7)] = 600.0
    """How long a rank waits for the others before it gives up."""
    method: MethodConfig = field(default_factory=MethodConfig)
    """What to learn."""
    loss: LossConfig = field(default_factory=LossConfig)
    """How to tell pictures and texts apart."""
    optimiser: OptimiserConfig = field(default_factory=OptimiserConfig)
    """How to step."""
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    """When to save."""
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    """What to measure."""
    log: LogConfig = field(default_factory=LogConfig)
    """What to write down."""
    profile: ProfileConfig = field(default_factory=ProfileConfig)
    """Which steps to trace."""
    plan: PlanConfig = field(default_factory=PlanConfig)
    """For what machines it is meant."""
    launcher: Literal["torchrun", "ray"] = "torchrun"
    """Who starts several processes: torchrun (or nobody, for one process), or Ray Train, see `ray`."""
    ray: RayConfig = field(default_factory=RayConfig)
    """How many processes Ray starts, and where."""

    def __post_init__(self) -> None:
        check_bounds(self)
        _check_place("output", self.output)
        if (self.epochs is None) == (self.samples is None):
            raise ConfigError("give either epochs or samples: set one of the two, and the other to null")
        if self.data.follow and self.samples is None:
            raise ConfigError(
                "data.follow changes what an epoch is: set --samples N --epochs null, N being the run's length"
            )
        _check_phases(self.phases)


def total_samples(config: TrainConfig, samples_an_epoch: float) -> int:
    """Length of the run in samples, a multiple of the global batch size."""
    wanted = config.samples if config.samples is not None else cast(float, config.epochs) * samples_an_epoch
    return math.ceil(wanted / config.global_batch_size) * config.global_batch_size


def learns(config: TrainConfig) -> str:
    """Fingerprint of the options that change what is learnt; the others may change when a run goes on."""
    # How the work is cut and where it lies changes nothing. Without lanes, and where all is taken, the parts are those
    # of earlier versions.
    data = config.data
    order: tuple[object, ...] = () if data.lanes is None else (data.lanes,)
    if data.sampling != "uniform":
        order += (data.sampling, data.metaclip if data.sampling == "metaclip" else data.concept)
    if data.captions.path is not None:
        order += ("captions", data.captions.own_probability)
    if data.reinforced:
        order += ("reinforced",)
    model = replace(config.model, gradient_checkpointing=False, compile=False)
    phases = [_as_once(replace(phase, micro_batches=None), patch_dropout=None) for phase in config.phases]
    # What came later counts where it is not what earlier versions did.
    of_model = _as_once(
        model, tokenizer=None, normalisation="clip", init_image_from=None, init_text_from=None,
        init_text_positions="interpolate", conv_stem=(),
    )  # fmt: skip
    loss = _as_once(config.loss, features="fp32", init_bias=None, label_smoothing=0.0)
    augment = _as_once(config.data.augment, min_decoded_sides=2.0)
    optimiser = _as_once(
        config.optimiser, name="adamw", image_learning_rate=None, text_learning_rate=None, image_layer_decay=1.0,
        text_layer_decay=1.0, schedule="cosine", cooldown_samples=0, ema_decay=None,
    )  # fmt: skip
    later = () if config.method == MethodConfig() else (config.method,)
    return fingerprint(
        of_model, phases, augment, config.data.weights, config.data.follow, config.epochs, config.samples,
        config.global_batch_size, config.seed, loss, optimiser, *order, *later,
    )  # fmt: skip


def _as_once(config: Any, **later: Any) -> dict[str, Any]:
    """The options of `config`, but for those of `later` that have the value there."""
    return {name: value for name, value in vars(config).items() if name not in later or value != later[name]}


def _check_place(option: str, text: str) -> None:
    """Raise ConfigError for a URL that is none of a bucket."""
    try:
        place_of(text)
    except PipelineError as error:
        raise ConfigError(f"{option}: {error}") from error


def _check_phases(phases: Sequence[Phase]) -> None:
    """Raise ConfigError unless `phases` begin one after the other."""
    begins = [phase.begins_at for phase in phases]
    if begins != sorted(set(begins)):
        raise ConfigError(f"phases must begin one after the other, got begins_at {begins}")
