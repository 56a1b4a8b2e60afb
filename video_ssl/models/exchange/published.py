"""Published checkpoints of MAE, VideoMAE (also VideoMAE V2 and the files on the Hugging Face hub) and
MVD: the encoder, and with it the classifier's head or the decoders; sizes are read off the weights."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from video_ssl.limits import read_json
from video_ssl.models.config import IMAGENET_MEAN, IMAGENET_STD, DecoderConfig, ViTConfig
from video_ssl.models.encoders import load_encoder
from video_ssl.models.exchange.command_line import family_of, trained_on
from video_ssl.models.exchange.published_encoder import build_published_encoder, infer_config
from video_ssl.models.exchange.published_model import Published, Source
from video_ssl.models.exchange.published_names import Named, name_keys
from video_ssl.models.exchange.sizes import Sizes
from video_ssl.models.hub.folder import HubFolder
from video_ssl.models.hub.processing import read_frames
from video_ssl.models.networks.decoder import MaskedDecoder
from video_ssl.models.networks.image_vit import ImageViT
from video_ssl.models.networks.vit import VideoViT
from video_ssl.models.preprocess_config import VideoPreprocess
from video_ssl.models.weights import Checkpoint, LoadReport, WeightsError, read_checkpoint

log = logging.getLogger(__name__)

Family = Literal["auto", "mae", "videomae", "videomae_v2", "mvd"]

#: What an encoder owns in a checkpoint of a whole model.
PARTS = ("patch_embed.", "blocks.", "norm.", "cls_token")
#: Clips as the model was trained on.
AS_TRAINED = Sizes()
DECODERS = ("decoder.", "decoders.image.", "decoders.video.")
#: Names outside the blocks, of timm, DINOv2, DeiT and BEiT, of what tokens go through or stand beside.
_FORMING = re.compile(
    r"^(?:model\.|backbone\.|encoder\.|vit\.|videomae\.|embeddings\.)*(?:norm_pre|pre_layrnorm|reg_tokens?|"
    r"register_tokens?|storage_tokens|dist_token|distillation_token|attn_pool|rel_pos_bias|relative_position_bias|"
    r"patch_embed\.(?:norm|backbone)|pos_embed_\w+|rope\w*)(?:\.|$)"
)


@dataclass(frozen=True, kw_only=True)
class PublishedViT(Published):
    """A checkpoint of these families; it has other namings too (`export_names.py`).

    Attributes:
        strange: keys that form features and have no place in ours: an architecture we do not know.
    """

    encoder: VideoViT | ImageViT
    preprocess: VideoPreprocess
    strange: tuple[str, ...] = ()


def read(
    source: Source, *, family: str, sizes: Sizes, num_heads: int | None, min_share: float
) -> PublishedViT | None:
    """Returns the model of a file or of a folder of the Hugging Face hub, see `Reader`."""
    if family == "auto" and source.is_file and name_keys(source.checkpoint.state) is None:
        return None
    return read_published(
        source.path,
        sizes=sizes,
        family=cast(Family, family),
        num_heads=num_heads,
        min_share=min_share,
        checkpoint=source.checkpoint if source.is_file else None,
    )


def read_published(
    path: str | Path,
    *,
    sizes: Sizes = AS_TRAINED,
    family: Family = "auto",
    num_heads: int | None = None,
    min_share: float = 1.0,
    checkpoint: Checkpoint | None = None,
) -> PublishedViT:
    """Returns the model of a checkpoint file, or of a folder of the Hugging Face hub.

    Args:
        path: the file, or the folder that holds it beside its `config.json`.
        sizes: what clips it is for; see `Sizes`.
        family: whose it is; needed only for fine-tuned files that do not show it: VideoMAE's and MVD's have the same
            keys and different positions.
        num_heads: not stored; by default the number that goes with the width.
        min_share: least share of the model's weights that the file must fill, in [0, 1].
        checkpoint: what the file holds, where it has been read.

    Raises:
        WeightsError: unreadable, no such model, a width whose heads are not known, too few weights, or a fine-tuned
            model that does not show its family.
        EncoderError: a folder whose processor does what is not done here.
    """
    path = folder = Path(path)
    hub: dict[str, Any] = {}
    if path.is_dir():
        path, hub = _hub_folder(path)
    file = read_checkpoint(path) if checkpoint is None else checkpoint
    size, frames = trained_on(file.arguments)
    sizes = replace(
        sizes,
        trained_size=sizes.trained_size or _positive(hub, "image_size", "img_size") or size,
        trained_frames=sizes.trained_frames or _positive(hub, "num_frames") or frames,
    )
    found = interpret(
        file.state,
        name=str(path),
        container=file.container,
        arguments=file.arguments,
        sizes=sizes,
        family=family,
        num_heads=num_heads,
        hub=hub,
        min_share=min_share,
    )
    return _processed(found, folder, hub) if folder.is_dir() else found


def interpret(
    state: Mapping[str, Tensor],
    *,
    name: str = "the state dict",
    container: str = "",
    sizes: Sizes = AS_TRAINED,
    family: Family = "auto",
    num_heads: int | None = None,
    hub: Mapping[str, Any] | None = None,
    arguments: Mapping[str, Any] | None = None,
    min_share: float = 1.0,
) -> PublishedViT:
    """Returns the model of a state dict; arguments and errors as in `read_published`.

    `hub` is the `config.json` of the Hugging Face folder it comes from, `arguments` the command line of its training.
    """
    named = name_keys(state)
    if named is None:
        raise WeightsError(
            f"{name} has no patch_embed.proj.weight, bare or below encoder. or backbone., nor the names of "
            "Hugging Face: it is not a checkpoint of MAE, VideoMAE or MVD."
        )
    if not named.tensors["encoder.patch_embed.proj.weight"].numel():
        raise WeightsError(
            f"{name} holds empty tensors, as the parts that ZeRO stage 3 leaves: gather them with DeepSpeed's "
            "zero_to_fp32.py first."
        )
    stated = family_of(arguments or {})
    settled = family if family != "auto" else stated or "auto"
    notes = _family_notes(named, family, stated)
    encoder, table, table_notes, computed = build_published_encoder(
        named, sizes, settled, num_heads, _stated_heads(hub or {})
    )
    if settled == "auto" and _tells_no_family(named, encoder):
        raise WeightsError(
            f"{name} has the keys of a fine-tuned model, which VideoMAE's and MVD's codes share although their "
            "positions differ, and nothing in it says whose it is (no command line in `args`): give --family videomae, "
            "videomae_v2 or mvd (of a teacher: objective.video.family)."
        )
    notes += _hub_notes(encoder, hub or {}) + table_notes
    expected = {f"encoder.{k}": v.shape for k, v in encoder.state_dict().items()}
    head = _head_of(named, encoder)
    expected |= _head_shapes(head, encoder.embed_dim)
    for prefix in DECODERS:
        shapes, decoder_notes = _decoder_shapes(named, prefix)
        expected |= shapes
        notes += decoder_notes
    report = replace(_compare(named, expected, computed), notes=tuple(notes))
    if report.share < min_share:
        raise WeightsError(
            f"only {report.share:.0%} of the weights of the model in {name} would be filled, at least "
            f"{min_share:.0%} is required: {report}. Is the file complete, and a model of this kind?"
        )
    strange = tuple(
        k
        for k in report.unused
        if (named.places[k] or "").startswith("encoder.blocks.") or _FORMING.match(k)
    )
    if strange and min_share == 1.0:
        raise WeightsError(_strange(name, strange))
    filled = {k: v for k, v in named.tensors.items() if k in set(report.matched)}
    own = encoder.state_dict()
    own |= {k.removeprefix("encoder."): v for k, v in filled.items() if k.startswith("encoder.")}
    encoder.load_state_dict(own)
    return PublishedViT(
        encoder=encoder,
        preprocess=_preprocess(encoder, sizes),
        head={k: v for k, v in filled.items() if k in head},
        decoders={k: v for k, v in filled.items() if k.startswith(DECODERS)},
        family=_family_of(named, encoder, settled),
        layout=named.layout,
        form=named.form,
        container=container,
        report=report,
        table=table,
        strange=strange,
        heeds=(*vars(sizes), "num_heads", "min_share"),
    )


def _preprocess(encoder: VideoViT | ImageViT, sizes: Sizes) -> VideoPreprocess:
    config = encoder.config
    frames = config.num_frames if isinstance(config, ViTConfig) else None
    assert config.image_size is not None
    return VideoPreprocess(
        num_frames=frames or sizes.num_frames or 16,
        frame_stride=4,
        size=config.image_size,
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
    )


def _processed(found: PublishedViT, folder: Path, hub: Mapping[str, Any]) -> PublishedViT:
    """The model with frames as the processor in its folder makes them; their side stays that of the encoder."""
    clips, old = isinstance(found.encoder, VideoViT), found.preprocess
    kind = str(hub.get("model_type", "videomae" if clips else "vit"))
    said = read_frames(HubFolder(folder, str(folder)), model_type=kind, clips=clips)
    if said is None:
        note = f"{folder.name} has no preprocessor_config.json: mean and deviation of ImageNet are taken."
        notes = (*found.report.notes, note)
        return replace(found, report=replace(found.report, notes=notes))
    scaling = said.scaling(old.size)
    if scaling["resize_to"] == old.size:  # the same square, which is called so here
        scaling["resize_to"] = None
    return replace(found, preprocess=replace(old, mean=said.mean, std=said.std, **scaling))


def _strange(name: str, keys: Sequence[str]) -> str:
    return (
        f"{name} has {len(keys)} weights that its features are made with and no encoder here has: "
        f"{', '.join(keys[:4])}. They would differ from the original's; `video-ssl convert --min-share 0.99` leaves "
        "these weights out all the same."
    )


# Reading -------------------------------------------------------------------------------------------


def _hub_folder(folder: Path) -> tuple[Path, dict[str, Any]]:
    """The weights of a folder as Hugging Face lays it out, and what its config.json says."""
    stems = ("model.safetensors", "pytorch_model.bin")
    names = [stem + end for stem in stems for end in ("", ".index.json")]
    file = next((folder / n for n in names if (folder / n).is_file()), None)
    if file is None:
        there = sorted(p.name for p in folder.iterdir())[:10]
        raise WeightsError(
            f"{folder} holds no weights: expected one of {', '.join(names)}; there is "
            f"{', '.join(there) or 'nothing'}."
        )
    config: Any = {}
    if (folder / "config.json").is_file():
        try:
            config = read_json(folder / "config.json", max_bytes=2**22)
        except ValueError as err:
            raise WeightsError(f"{folder / 'config.json'} is not JSON: {err}.") from err
    if not isinstance(config, dict):
        config = {}
    # OpenGVLab's files keep their settings one level lower (unverified).
    inner = config.get("model_config")
    return file, {**config, **inner} if isinstance(inner, dict) else config


def _positive(config: Mapping[str, Any], *names: str) -> int | None:
    values = [config.get(name) for name in names]
    return next((v for v in values if type(v) is int and v > 0), None)


# What is around the encoder -----------------------------------------------------------------------


def _head_shapes(head: Mapping[str, Tensor], dim: int) -> dict[str, torch.Size]:
    shapes = {}
    if "fc_norm.weight" in head:
        shapes = {"fc_norm.weight": torch.Size([dim]), "fc_norm.bias": torch.Size([dim])}
    if "head.weight" in head:
        classes = head["head.weight"].shape[0]
        shapes |= {"head.weight": torch.Size([classes, dim]), "head.bias": torch.Size([classes])}
    return shapes


def _decoder_shapes(named: Named, prefix: str) -> tuple[dict[str, torch.Size], list[str]]:
    """The keys of the decoder below `prefix` that fits, and notes; {} if there is none, or none like it here."""
    own = {k.removeprefix(prefix): v for k, v in named.tensors.items() if k.startswith(prefix)}
    numbers = [int(k.split(".")[1]) for k in own if k.startswith("blocks.")]
    if not {"embed.weight", "head.weight", "blocks.0.mlp.fc1.weight"} <= set(own):
        return {}, []
    dim, in_dim = own["embed.weight"].shape
    scale = own.get("blocks.0.attn.scale")
    config = DecoderConfig(
        embed_dim=dim,
        depth=1 + max(numbers),
        num_heads=1 if scale is None else len(scale),
        mlp_ratio=own["blocks.0.mlp.fc1.weight"].shape[0] / dim,
        drop_path=0.0,
        cosine_attention=scale is not None,
    )
    full = "blocks.0.attn.qkv.bias" in own
    with torch.device("meta"):
        module = MaskedDecoder(
            config,
            in_dim=in_dim,
            out_dim=own["head.weight"].shape[0],
            table="sincos_1d",
            grid=(1, 1, 1),
            embed_bias="embed.bias" in own,
            qkv_bias="full" if full else "q_v" if "blocks.0.attn.q_bias" in own else "none",
        )
    shapes = {prefix + key: value.shape for key, value in module.state_dict().items()}
    places = [
        p for p in named.places.values() if p is not None and p.startswith(prefix + "blocks.")
    ]
    strange = [p for p in places if p not in shapes]
    if strange:
        return {}, [
            f"the blocks of {prefix.rstrip('.')} have weights that no block here has, {', '.join(strange[:4])}: this "
            "decoder is left out, since it would be another one without them."
        ]
    return shapes, []


def _head_of(named: Named, encoder: VideoViT | ImageViT) -> dict[str, Tensor]:
    """The classifier's tensors: behind the mean with its norm, or behind the first token after the final norm."""
    head = {k: v for k, v in named.tensors.items() if k.startswith(("fc_norm.", "head."))}
    if "fc_norm.weight" in head:
        return head
    weight = head.get("head.weight")
    whole = encoder.norm is not None and (encoder.num_prefix or isinstance(encoder, VideoViT))
    fits = weight is not None and weight.dim() == 2 and weight.shape[1] == encoder.embed_dim
    return head if whole and fits else {}


def _family_notes(named: Named, family: str, stated: str | None) -> list[str]:
    if family in ("auto", "mae") or stated in (None, family) or named.form != "finetuned":
        return []
    return [f"the command line in the file is one of {stated}; --family {family} is taken."]


def _tells_no_family(named: Named, encoder: VideoViT | ImageViT) -> bool:
    """Whether keys and shapes leave open whose positions a model has that stores none."""
    if named.form != "finetuned" or encoder.config.positions != "sincos_1d":
        return False  # what is not VideoMAE's table is mentioned elsewhere
    return "encoder.pos_embed" not in named.tensors and not _is_second(named, encoder)


def _stated_heads(hub: Mapping[str, Any]) -> int | None:
    return _positive(hub, "num_attention_heads", "num_heads")


def _hub_notes(encoder: VideoViT | ImageViT, hub: Mapping[str, Any]) -> list[str]:
    notes = []
    stated = _stated_heads(hub)
    heads = encoder.config.heads
    if stated is not None and stated != heads:
        notes.append(
            f"config.json says {stated} heads, the model was trained with {heads}; {heads} are taken "
            "(--num-heads overrides)."
        )
    if hub.get("layer_norm_eps") not in (None, 1e-6):
        notes.append(
            f"config.json says layer_norm_eps {hub['layer_norm_eps']}, the model was trained with 1e-6, which is "
            "taken."
        )
    return notes


def _compare(
    named: Named, expected: Mapping[str, Sequence[int]], computed: Sequence[str]
) -> LoadReport:
    """What became of the keys; dropped are those without a place in `expected`."""
    have = named.tensors
    right = [k for k in expected if k in have and have[k].shape == torch.Size(expected[k])]
    wrong = [k for k in expected if k in have and k not in set(right)]
    filled, tables = set(right), set(computed)
    return LoadReport(
        matched=tuple(right),
        renamed={k: p for k, p in named.places.items() if p in filled and p != k},
        missing=tuple(k for k in expected if k not in have),
        unused=tuple(
            k
            for k, p in named.places.items()
            if p is None or (p not in expected and p not in tables)
        ),
        mismatched=tuple(
            f"{k} {list(have[k].shape)} instead of {list(expected[k])}" for k in wrong
        ),
        computed=tuple(k for k, p in named.places.items() if p in tables),
    )


def _family_of(named: Named, encoder: VideoViT | ImageViT, family: str) -> str:
    if family != "auto":
        return family
    if isinstance(encoder, ImageViT):
        return "mae"
    if named.form == "mvd" or encoder.config.positions == "sincos_3d":
        return "mvd"
    return "videomae_v2" if _is_second(named, encoder) else "videomae"


def _is_second(named: Named, encoder: VideoViT | ImageViT) -> bool:
    """Whether only VideoMAE V2 published such a model."""
    config = encoder.config
    second = config.cosine_attention or config.width == 1408
    second |= "head.weight" in named.tensors and len(named.tensors["head.weight"]) == 710
    return second or any(key.startswith("model.") for key in named.places)


# The encoder alone ---------------------------------------------------------------------------------


def encoder_part(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Returns what belongs to the encoder of a state dict in original naming, under the keys of
    `VideoViT` and `ImageViT`."""
    for prefix in ("encoder.", "backbone.", ""):
        own = {k[len(prefix) :]: v for k, v in state.items() if k.startswith(prefix)}
        if "patch_embed.proj.weight" in own:
            break
    return {key: value for key, value in own.items() if key.startswith(PARTS)}


def load_published(
    path: str | Path,
    *,
    image_size: int = 224,
    num_frames: int = 16,
    num_heads: int | None = None,
    family: Family = "auto",
) -> VideoViT | ImageViT:
    """Returns the encoder of a checkpoint, on the CPU: an `ImageViT` if patches are 2-D, else a
    `VideoViT`.  Its table is computed for the given clips, as MVD's code does of its teachers; for
    trained positions at other sizes, and for `family`, see `read_published`.

    Raises:
        WeightsError: as `read_published`.
    """
    sizes = Sizes(image_size=image_size, num_frames=num_frames, table="recompute")
    found = read_published(path, sizes=sizes, family=family, num_heads=num_heads, min_share=0.0)
    report = found.report
    lacking = [k for k in (*report.missing, *report.mismatched) if k.startswith("encoder.")]
    if lacking:
        raise WeightsError(f"the encoder in {path} is not whole: {', '.join(lacking[:8])}.")
    if found.strange:
        raise WeightsError(_strange(str(path), found.strange))
    log.info("weights of %s: %s", path, report)
    return found.encoder


def load_teacher(
    path: str | Path,
    *,
    image_size: int,
    num_frames: int,
    num_heads: int | None = None,
    family: Family = "auto",
) -> nn.Module:
    """Returns a frozen encoder in evaluation mode from an encoder folder (or run) or from a file; arguments as in
    `load_published`.

    Raises:
        WeightsError, EncoderError: nothing there, or nothing that can be read as an encoder.
    """
    if Path(path).is_file():
        module = load_published(
            path,
            image_size=image_size,
            num_frames=num_frames,
            num_heads=num_heads,
            family=family,
        )
        return module.requires_grad_(False).eval()
    return cast(nn.Module, load_encoder(path))


__all__ = [
    "PublishedViT",
    "Sizes",
    "encoder_part",
    "infer_config",
    "interpret",
    "load_published",
    "load_teacher",
    "read_published",
]
