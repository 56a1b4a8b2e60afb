"""Golden files by kind: every file of a kind is a case, recognised by its arrays, not by its name.

`VIDEO_SSL_GOLDEN` names another folder to take them from; it may hold other files of the same kinds
with other sizes, so tests read every size from the file.
"""

import os
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from video_ssl.models.config import ViTConfig
from video_ssl.models.exchange.published import infer_config

ROOT = Path(os.environ.get("VIDEO_SSL_GOLDEN", Path(__file__).parent / "data"))

#: kind -> (folder, patterns of array names; each must be there)
KINDS = {
    "mvd_student": ("mvd*", ("encoder_out", "pred_img", "pred_vid")),
    "mvd_image_teacher": ("mvd*", ("video_for_teacher", "tokens")),
    "mvd_video_teacher": ("mvd*", ("video", "tokens")),
    "mvd_distill": ("mvd*", ("combo_losses_img_vid_total_gradnorm",)),
    "videomae_pretrain": ("videomae*", ("label_normalised", "latent")),
    "videomae_steps": ("videomae*", ("grad_norm_before_clip", "clip_grad")),
    "videomae_v2": ("videomae*", ("encoder_mask", "decoder_mask", "pred")),
    "classifier": ("*", ("logits", "features", r"block_\d+")),
    "hico_resnet": ("hico*", ("num_filters", "eval_map")),
    "hico_colour": ("hico*", ("brightness_f", "hue_f", "gray")),
    "cvrl_colour": ("const_cl*", ("out_jitter_chain", "perm", "blur_kernel_arg")),
    "hico_eval_crop": ("hico*", (r"\d+/clip_uint8", r"\d+/cc", "test_scale")),
    "hico_frames": ("hico*", ("pretrain/interval", "eval/clip_idx")),
    "hico_intervals": ("hico*", (r"\w+/intervals", r"\w+/uniforms", r"\w+/progress")),
    "hico_segments": ("hico*", ("lines", "decode/segment")),
    "table": ("*", (r"(table|big|image2d)_.*d\d+_g\d+.*",)),
    "keys": ("*", ("finetune_base/keys",)),
    "key_lists": ("*", (r"\w+/keys", r"\w+/shapes")),
    "carl_scl": ("carl*", ("loss_f64", "grad_embs", "target", "log_prob")),
    "carl_head": ("carl*", ("after_video_emb", "after_encoder", "embedding_l2", "projection_l2")),
    "carl_step": ("carl*", (r"buffer_after/.*", r"grad/embed.*", "hp_N")),
    "carl_dtw": ("carl*", (r".*/acc_cost", r".*/first_match")),
    "carl_weak": ("carl*", ("rows", "labels", r"phi/.*")),
    "carl_keys": ("carl*", ("names", "shapes", "dtypes")),
    "carl_evaluators": ("carl*", ("val_tau", "val_ap_at_k", "cls_val_acc", "progress_val_r2")),
    "frame_probe": ("carl*", ("W0", "b0", "videos_per_batch", "losses")),
    "tf_r3d": ("const_cl*", ("block_repeats", "eval/5", "train/5", "param/.*")),
    "cvrl_model": ("const_cl*", ("hidden_dim", "projection_dim", "loss/contrastive_loss")),
    "mlp_head": ("const_cl*", ("norm_momentum", "normalize_inputs", "out_train")),
    "global_loss": ("const_cl*", (r"\w+/inputs", r"\w+/entropy", r"\w+/grad_inputs")),
    "cvrl_pairs": ("const_cl*", ("seq_len", "num_steps", "swap", "indices")),
    "cvrl_eval": ("const_cl*", (r"linspace\d+/indices", r"keyframe\d+/args", "three_crop/out")),
    "cvrl_lr": ("const_cl*", (r"\w+/args", r"\w+/steps", r"\w+/lr")),
    "tf_resize": ("const_cl*", ("resize_in", "resize_out", "crop_yxhw")),
    "teg_pairs": ("teg*", (r"\d+/start_long", r"\d+/idx_short", r"\d+/position")),
    "teg_fine": ("teg*", (r"\w+/loss_intra", r"\w+/grad_long_both")),
    "teg_total": ("teg*", (r"\w+/loss_total", r"\w+/omega")),
    "tf_checkpoint": ("vatt*", ("file/index", "file/data", "names")),
}


class Golden:
    """The arrays of a file, as tensors where they are numbers."""

    def __init__(self, path):
        self.path = path
        self.arrays = np.load(path, allow_pickle=False)

    def __contains__(self, name):
        return name in self.arrays.files

    def __getitem__(self, name):
        array = self.arrays[name]
        return array if array.dtype.kind == "U" else torch.from_numpy(np.array(array))

    @property
    def names(self):
        return self.arrays.files

    def params(self):
        return {k[len("param/") :]: self[k] for k in self.names if k.startswith("param/")}

    def beside(self, kind):
        """The file of another kind in the same folder: same suffix of the name if there is one."""
        files = files_of(kind, folder=self.path.parent)
        suffix = re.sub(r"^[a-z_]*", "", self.path.stem)
        same = [f for f in files if suffix and f.stem.endswith(suffix)]
        return Golden((same or sorted(files, key=lambda f: len(f.stem)))[0])


def files_of(kind, folder=None):
    place, patterns = KINDS[kind]
    folders = [folder] if folder else sorted(p for p in ROOT.glob(place) if p.is_dir())
    found = []
    for file in (f for d in folders for f in sorted(d.glob("*.npz"))):
        with np.load(file, allow_pickle=False) as data:
            if all(any(re.fullmatch(p, name) for name in data.files) for p in patterns):
                found.append(file)
    return found


def pytest_generate_tests(metafunc):
    for kind in KINDS:
        if kind in metafunc.fixturenames:
            files = files_of(kind)
            ids = [f"{f.parent.name}/{f.stem}" for f in files]
            metafunc.parametrize(kind, [Golden(f) for f in files], ids=ids)


def heads_of(g, width, part="encoder"):
    """`settings/PART_num_heads` where a file has it, else what the README states, else heads of 16
    channels: weights do not show it."""
    if f"settings/{part}_num_heads" in g:
        return int(g[f"settings/{part}_num_heads"])
    return {48: 3, 36: 3, 32: 2, 24: 2, 16: 2}.get(width) or max(1, width // 16)


def vit_config(g, part, video, **changes):
    """The config of the encoder whose weights are `part`, for videos of the given shape."""
    width = part["patch_embed.proj.weight"].shape[0]
    config = infer_config(
        part, image_size=video.shape[-1], num_frames=video.shape[-3], num_heads=heads_of(g, width)
    )
    return replace(config, **changes) if isinstance(config, ViTConfig) else config


def depth_of(keys, prefix):
    return 1 + max(int(k[len(prefix) :].split(".")[0]) for k in keys if k.startswith(prefix))


def adamw_of(objective):
    """AdamW of the references, and the names of what it decays: the rule is written out here."""
    decayed, plain = {}, {}
    for name, parameter in objective.named_parameters():
        spared = (
            parameter.ndim <= 1 or name.endswith(".bias") or name in objective.no_weight_decay()
        )
        (plain if spared else decayed)[name] = parameter
    groups = [
        {"params": list(decayed.values()), "weight_decay": 0.05},
        {"params": list(plain.values()), "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=0.0, betas=(0.9, 0.95), eps=1e-8), set(decayed)


@pytest.fixture(scope="session")
def golden():
    """The helpers of this file, for tests that cannot import it."""

    class Helpers:
        heads_of = staticmethod(heads_of)
        vit_config = staticmethod(vit_config)
        depth_of = staticmethod(depth_of)
        adamw_of = staticmethod(adamw_of)

        @staticmethod
        def close(actual, expected, atol, rtol=0.0):
            expected = torch.as_tensor(expected)
            torch.testing.assert_close(
                actual.detach().to(expected.dtype), expected, atol=atol, rtol=rtol
            )

    return Helpers
