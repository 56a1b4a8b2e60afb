"""What the command line that training scripts keep in their checkpoints (`args`) contains about the model.

The keys of fine-tuned models are the same in VideoMAE's, VideoMAE V2's and MVD's files, their positions are not.  The
options of the scripts distinguish them.  Sources: `run_class_finetuning.py` and the pre-training scripts of
MCG-NJU/VideoMAE, OpenGVLab/VideoMAEv2 and ruiwang2021/mvd.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

#: family -> options that only its scripts have.
_OWN_OPTIONS = {
    "mvd": {
        *("use_cls_token", "remove_pos_emb", "merge_test", "no_save_best_ckpt"),
        *("image_teacher_model", "video_teacher_model", "time_stride_loss"),
    },
    "videomae_v2": {
        *("with_checkpoint", "head_drop_rate", "sparse_sample", "fname_tmpl"),
        *("decoder_mask_type", "decoder_mask_ratio"),
    },
}
#: Options of the scripts of all three that hardly another one has.
_COMMON_OPTIONS = {"tubelet_size", "init_scale", "use_mean_pooling", "sampling_rate"}


def family_of(arguments: Mapping[str, Any]) -> str | None:
    """Returns "mvd", "videomae_v2" or "videomae" by the options of a command line, None where they do not show it.

    >>> family_of({"sampling_rate": 4, "tubelet_size": 2, "use_cls_token": False})
    'mvd'
    >>> family_of({"lr": 1e-3}) is None
    True
    """
    if len(_COMMON_OPTIONS & set(arguments)) < 2:
        return None
    marked = [family for family, own in _OWN_OPTIONS.items() if own & set(arguments)]
    if len(marked) > 1:
        return None
    return marked[0] if marked else "videomae"


def trained_on(arguments: Mapping[str, Any]) -> tuple[int | None, int | None]:
    """Returns the side of the frames in pixels and the frames of a clip that a command line states, None where it does
    not.

    >>> trained_on({"input_size": 224, "num_frames": 8, "num_segments": 2})
    (224, 16)
    """
    size, frames = _positive(arguments.get("input_size")), _positive(arguments.get("num_frames"))
    segments = _positive(arguments.get("num_segments")) or 1
    return size, frames * segments if frames else None


def _positive(value: Any) -> int | None:
    return value if type(value) is int and value > 0 else None
