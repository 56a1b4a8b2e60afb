"""Every objective of torch from raw batches: samples of its plan (uint8) in, loss and gradients out.

The other tests hand parts of an objective what they need.  Here nothing is handed over: what `forward` does between
the batch and the loss (which pixels are normalised and how, who sees which mask, which row of colors, which weight)
is done a second time, clip by clip in float64, from the sheets.
"""

import copy
import itertools

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from video_ssl.clips.decoders.reader import VideoInfo
from video_ssl.datasets.table import Record
from video_ssl.models.color_changes import apply_color
from video_ssl.models.config import ImageViTConfig, ViTConfig
from video_ssl.models.encoders import save_encoder
from video_ssl.models.networks.image_vit import ImageViT
from video_ssl.models.networks.vit import VideoViT
from video_ssl.models.preprocess_config import VideoPreprocess
from video_ssl.models.tokenizers.vq_config import VQConfig
from video_ssl.models.tokenizers.vq_tokenizer import VQTokenizer
from video_ssl.objectives import OBJECTIVES
from video_ssl.recipes import build_config

SIZE = {"preset": None, "embed_dim": 16, "depth": 2, "num_heads": 2, "patch_size": 4}
CLIP = {"num_frames": 4, "frame_stride": 2, "num_clips": 2}
MASKED = {
    "clip": CLIP,
    "crop": {"kind": "random_resized", "size": 16, "flip_probability": 0.5},
    "mask": {"ratio": 0.5},
    "encoder": SIZE,
    "decoder": {"embed_dim": 16, "depth": 1, "num_heads": 2},
}
FRAME_SETS = {
    "frames": {"kind": "offset_uniform", "num_frames": 6, "num_views": 2},
    "crop": {"kind": "random_resized", "size": 16, "area": [0.8, 1.0], "flip_probability": 0.5},
    "color": {"law": "carl"},
    "encoder": {
        "head": "transformer",
        "backbone": "small",
        "small_width": 4,
        "fc_dims": [8],
        "hidden_dim": 8,
        "num_layers": 2,
        "num_heads": 2,
        "ffn_dim": 8,
        "embed_dim": 6,
        "dropout": 0.0,
    },
}
SETTINGS = {
    "mae": {k: v for k, v in MASKED.items() if k != "clip"} | {"frames_per_video": 2},
    "videomae": {**MASKED, "decoder_mask": {"kind": "running_cell", "ratio": 0.5}},
    "mvd": {
        **MASKED,
        "image": {"source": {"run": "image"}, "weight": 0.5},
        "video": {"source": {"run": "video"}, "weight": 2.0, "loss": "l2"},
    },
    "supervised": {
        "num_classes": 5,
        "clip": CLIP,
        "crop": {"size": 16},
        "color": {"law": "hico", "probability": 1.0},
        "encoder": SIZE,
        "label_smoothing": 0.1,
    },
    "supervised_sound": {
        "multilabel": False,
        "num_classes": 4,
        "rate": 40,
        "num_samples": 24,
        "mix": {"alpha": 5.0},
        "label_smoothing": 0.1,
        "encoder": {
            "architecture": "vatt_audio",
            "preset": None,
            "embed_dim": 16,
            "depth": 2,
            "ffn_dim": 16,
            "num_heads": 2,
            "patch_samples": 4,
        },
    },
    "carl": {**FRAME_SETS, "negatives": "batch_noself", "temperature": 0.3, "variance": 4.0},
    "tcc": FRAME_SETS,
    "tcn": {
        **FRAME_SETS,
        "frames": {"kind": "anchor_positive", "num_frames": 6, "num_views": 2},
        "temperature": 0.5,
        "norm_penalty": 0.1,
    },
    "hico": {
        "clip": {
            "num_frames": 4,
            "frame_stride": 1,
            "fps": 60.0,
            "sampling": "seconds",
            "num_clips": 3,
        },
        "crop": {"kind": "whole", "size": 16},
        "color": {"law": "hico", "probability": 1.0},
        "encoder": SIZE,
        "hidden_dims": [8],
        "out_dim": 6,
        "topic_hidden": 7,
        "visual_weight": 0.5,
        "topical_weight": 2.0,
        "temperature": 0.3,
        "focus": 2.0,
    },
    "bevt": {
        "tokenizer": {"run": "runs/tokenizer"},
        "streams": "video",
        "clip": {"num_frames": 4, "frame_stride": 2, "sampling": "looped"},
        "crop": {"kind": "whole", "size": 64},
        "mask": {"count": 8, "least": 2},
        "encoder": {
            "preset": None,
            "embed_dim": 4,
            "depths": [1, 1, 2, 1],
            "num_heads": [1, 1, 2, 2],
            "window": [2, 2, 2],
        },
        "video_weight": 0.5,
    },
    "tokenizer": {
        "encoder": {"width": 6, "dim": 5, "vocab_size": 7},
        "crop": {"kind": "whole", "size": 16},
        "frames_per_video": 2,
    },
}
#: Other settings that change what is computed.
VARIANTS = {
    "mae of raw values": ("mae", {"target": "raw"}),
    "mae of gradients": ("mae", {"target": "hog", "hog": {"cell_px": 2, "bins": 5}}),
    "videomae of cuboids": ("videomae", {"mask": {"kind": "cube", "ratio": 0.4}}),
    "mae of rectangles": ("mae", {"mask": {"kind": "block", "ratio": 0.4, "cell": 2}}),
    "videomae with a stem of convolutions": ("videomae", {"encoder": {**SIZE, "stem": "conv"}}),
    "mae at visible patches": ("mae", {"visible_weight": 0.5}),
    "videomae of raw values": ("videomae", {"target": "raw", "decoder_mask": None}),
    "videomae of gradients": ("videomae", {"target": "hog", "hog": {"cell_px": 2}}),
    "videomae near the mask": (
        "videomae",
        {"visible_weight": 2.0, "visible_by_distance": True, "mask": {"ratio": 0.3}},
    ),
    "mvd near the mask": (
        "mvd",
        {"visible_weight": 0.5, "visible_by_distance": True, "mask": {"ratio": 0.3}},
    ),
    "sounds of several classes": ("supervised_sound", {"multilabel": True, "label_smoothing": 0.0}),
    "carl within a video": ("carl", {"negatives": "single_noself"}),
}
#: Frames of the videos.  CARL, TCC and TCN take six, so slots of the first one are repeats.
LENGTHS = (4, 30, 12)
IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
#: How the video teacher was trained, unlike the student.
OTHER = (0.5, 0.3, 0.4), (0.25, 0.2, 0.3)


class NoiseReader:
    """Every frame is noise of its own."""

    def __init__(self, num_frames, seed):
        self.seed = seed
        self.info = VideoInfo(
            num_frames=num_frames,
            fps=10.0,
            width=24,
            height=20,
            duration_sec=num_frames / 10,
            codec="none",
            rotation=0,
            has_audio=True,
        )

    def frames(self, indices, size=None):
        rngs = [np.random.default_rng([self.seed, int(i)]) for i in indices]
        return np.stack([rng.integers(0, 256, (20, 24, 3), dtype=np.uint8) for rng in rngs])

    def audio(self, start_sec, end_sec, rate):
        whole = np.random.default_rng([self.seed, 99]).uniform(-1, 1, 3 * rate)
        return whole[round(start_sec * rate) : round(end_sec * rate)].astype(np.float32)


def raw_batch(name, config):
    """What a loader makes of three videos."""
    plan = OBJECTIVES[name].main_plan(config)
    rows = [
        plan(
            Record(index=i, id=str(i), source="a.mp4", label=i, labels=(i, 3)),
            NoiseReader(length, i),
            np.random.default_rng(i),
            0.5,
        )
        for i, length in enumerate(LENGTHS)
    ]
    return {key: torch.from_numpy(np.stack([row[key] for row in rows])) for key in rows[0]}


def spread(module):
    """The module with weights that are far from what they are at the start, where much is 0 or alike."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += 0.2 * torch.randn_like(parameter)
    return module


def teachers():
    small = {**SIZE, "depth": 1, "image_size": 16}
    image = spread(ImageViT(ImageViTConfig(**small)))
    video = spread(VideoViT(ViTConfig(**small, num_frames=4, positions="sincos_1d")))
    mean, std = OTHER
    video.preprocess = VideoPreprocess(num_frames=4, size=16, mean=mean, std=std)
    return {"image": image, "video": video}


TORCH = [name for name, entry in OBJECTIVES.items() if entry.framework == "torch"]


@pytest.fixture(params=[*TORCH, *VARIANTS])
def case(request):
    """The name of an objective, and what is changed of its settings."""
    name, changes = VARIANTS.get(request.param, (request.param, {}))
    if name not in SETTINGS:
        pytest.fail(f"write a slow {name} from its sheet and add it to SETTINGS and SLOW")
    return name, changes


# The second implementation ------------------------------------------------------------------------


def clips_of(batch, normalization=IMAGENET, law=None):
    """Yields (record, view, clip): the clips of a batch, float64 (1, 3, T, S, S), one by one."""
    mean, std = (np.reshape(x, (3, 1, 1, 1)) for x in normalization)
    for b, v in np.ndindex(*batch["video"].shape[:2]):
        pixels = np.moveaxis(batch["video"][b, v].numpy(), -1, 0) / 255
        if law is not None:
            row = batch["color"][b, v][None]
            pixels = apply_color(torch.from_numpy(pixels)[None], row, law)[0].numpy()
        yield b, v, torch.from_numpy((pixels - mean) / std)[None]


def places(mask):
    """The visible and the hidden tokens of one clip, (1, K) and (1, M)."""
    return (torch.from_numpy(np.flatnonzero(x))[None] for x in (~mask.numpy(), mask.numpy()))


def tokens_of(clip, token, depth):
    """The pixels of a token of a clip (1, 3, T, 16, 16), (time, row, column, color)."""
    t, y, x = token // 16 * depth, 4 * (token // 4 % 4), 4 * (token % 4)
    return clip[0, :, t : t + depth, y : y + 4, x : x + 4].permute(1, 2, 3, 0)


def hog_of_token(frame, token, config):
    """MaskFeat's target of a token of a frame uint8 (16, 16, 3), pixel by pixel: (color, bin, row and column of the
    cell)."""
    side, levels = (
        config.cell_px,
        np.pad(frame.numpy().astype(int), ((1, 1), (1, 1), (0, 0)), "reflect"),
    )
    top, left = 4 * (token // 4 % 4), 4 * (token % 4)
    sums = np.zeros((3, config.bins, 4 // side, 4 // side))
    for c, y, x in np.ndindex(3, 4, 4):
        around = levels[top + y : top + y + 3, left + x : left + x + 3, c]
        gx = (around[:, 0] - around[:, 2]) @ (1, 2, 1)
        gy = (around[0] - around[2]) @ (1, 2, 1)
        degrees = np.degrees(np.arctan2(gx, gy)) % 180
        sums[c, int(degrees * config.bins / 180), y // side, x // side] += np.hypot(gx, gy)
    lengths = np.sqrt((sums**2).sum(1, keepdims=True))
    return torch.from_numpy((sums / np.maximum(lengths, 1e-12)).ravel())


def closeness(config, token, predicted):
    """1 / sqrt(distance to the nearest predicted token), where the settings say so."""
    if not config.visible_by_distance:
        return 1.0
    place, *others = (
        np.array(np.unravel_index(t, config.encoder.grid)) for t in (token, *predicted)
    )
    return min(float(np.linalg.norm(place - other)) for other in others) ** -0.5


def with_visible(config, hidden, seen):
    """The loss of errors at hidden and at visible tokens."""
    return torch.stack(hidden).mean() + config.visible_weight * torch.stack(seen).mean()


def slow_mae(objective, batch):
    config, errors, others = objective.config, [], []
    for b, v, clip in clips_of(batch):
        seen, hidden = places(batch["mask"][b, v])
        found = objective.decoder(objective.encoder(clip, seen), seen, hidden, at_visible=True)[0]
        for row, token in zip(found, [*seen[0].tolist(), *hidden[0].tolist()], strict=True):
            patch = tokens_of(clip, token, 1).flatten()
            if config.target == "normalized":
                patch = (patch - patch.mean()) / (patch.var() + 1e-6).sqrt()
            if config.target == "hog":
                patch = hog_of_token(batch["video"][b, v, 0], token, config.hog)
            error = (row - patch).square().mean()
            (errors if batch["mask"][b, v, token] else others).append(error)
    return with_visible(config, errors, others)


def slow_videomae(objective, batch):
    config, errors, others = objective.config, [], []
    bare = clips_of(batch, ((0, 0, 0), (1, 1, 1)))
    for (b, v, clip), (_, _, pixels) in zip(clips_of(batch), bare, strict=True):
        seen, decoded = places(batch["mask"][b, v])
        if config.decoder_mask is not None:
            decoded, _ = places(batch["decoder_mask"][b, v])
        found = objective.decoder(objective.encoder(clip, seen), seen, decoded, at_visible=True)[0]
        predicted = [t for t in decoded[0].tolist() if batch["mask"][b, v, t]]
        tokens = [*seen[0].tolist(), *decoded[0].tolist()]
        for i, (row, token) in enumerate(zip(found, tokens, strict=True)):
            cube = tokens_of(pixels, token, 2)
            if config.target == "normalized":
                mean, std = cube.mean((0, 1, 2)), cube.reshape(-1, 3).std(0)
                cube = (cube - mean) / (std + 1e-6)
            cube = cube.flatten()
            if config.target == "hog":
                cube = hog_of_token(batch["video"][b, v, token // 16 * 2], token, config.hog)
            error = (row - cube).square().mean()
            if i < seen.shape[1]:
                others.append(error * closeness(config, token, predicted))
            elif token in predicted:  # of what the encoder sees, the mask token has no task
                errors.append(error)
    return with_visible(config, errors, others)


def slow_mvd(objective, batch):
    image, video = (objective.frozen[name].module for name in ("image", "video"))
    for_video = clips_of(batch, OTHER)
    config, errors, others = objective.config, [], []
    for (b, v, clip), (_, _, for_teacher) in zip(clips_of(batch), for_video, strict=True):
        seen, hidden = places(batch["mask"][b, v])
        encoded, tokens = objective.encoder(clip, seen), torch.cat([seen, hidden], 1)[0]
        with torch.no_grad():
            targets = {
                "image": image.taps(clip[:, :, ::2]).flatten(1, 2)[0, tokens],
                "video": video.taps(for_teacher).flatten(1, 2)[0, tokens],
            }
        wrong = {
            name: decoder(encoded, seen, hidden, at_visible=True)[0] - targets[name]
            for name, decoder in objective.decoders.items()
        }
        far = wrong["image"].abs()
        smooth = torch.where(far < 1, far**2 / 2, far - 0.5)
        distances = 0.5 * smooth.mean(1) + 2.0 * wrong["video"].square().mean(1)
        for distance, token in zip(distances, tokens.tolist(), strict=True):
            if batch["mask"][b, v, token]:
                errors.append(distance)
            else:
                others.append(distance * closeness(config, token, hidden[0].tolist()))
    return with_visible(config, errors, others)


def slow_supervised(objective, batch):
    losses = []
    for b, _, clip in clips_of(batch, law="hico"):
        feature = objective.encoder(clip).mean(1)[0]
        log_p = objective.head(feature).log_softmax(0)
        losses.append(-0.9 * log_p[batch["label"][b]] - 0.1 * log_p.mean())
    return torch.stack(losses).mean()


def slow_supervised_sound(objective, batch):
    """The sample of the i-th smallest place is the partner of sample i."""
    multilabel, head, losses = objective.config.multilabel, objective.head, []
    mates = sorted(range(len(LENGTHS)), key=lambda i: float(batch["mix"][i, 1]))
    sounds = batch["sound"].double()
    own = torch.zeros(len(LENGTHS), 4).double()
    for b in range(len(LENGTHS)):
        own[b, [b, 3] if multilabel else [b]] = 1
    share = batch["mix"][:, :1]
    y = share * own + (1 - share) * own[mates]
    for b, mate in enumerate(mates):
        s = share[b]
        feature = objective.encoder.encoded((s * sounds[b] + (1 - s) * sounds[mate])[None])[0][0]
        logits = head.weight @ feature + head.bias
        if multilabel:
            p = 1 / (1 + (-logits).exp())
            weight = sum(y[b, c] / y[:, c].sum() for c in range(4) if y[b, c]) / y[b].sum()
            losses.append(-weight * (y[b] * p.log() + (1 - y[b]) * (1 - p).log()).sum())
        else:
            losses.append(-((0.9 * y[b] + 0.1 / 4) * logits.log_softmax(0)).sum())
    return torch.stack(losses).mean()


def slow_features(objective, batch):
    """Frame features float64 (B, V, T, D): frames through the backbone one by one, then a view at a time, where every
    frame looks at the frames that are valid, and at no others."""
    encoder, head, views = objective.encoder, objective.encoder.head, []
    for b, v, clip in clips_of(batch, law=objective.config.color.law):
        frames = [encoder.backbone(clip[:, :, t]).amax((2, 3)) for t in range(clip.shape[2])]
        x = head.video_emb(head.fc_layers(torch.cat(frames))) + head.positions.double()
        valid = batch["frame_valid"][b, v]
        for layer in head.video_encoder.enc_layers:
            x = x + slow_attention(layer.self_att, layer.res_layer0.norm(x), valid)
            x = x + layer.feed_forward(layer.res_layer1.norm(x))
        views.append(head.embedding_layer(x))
    return torch.stack(views).unflatten(0, batch["steps"].shape[:2])


def slow_attention(layer, x, valid):
    width, parts = x.shape[1] // layer.num_heads, []
    linears = (layer.linear_Q2d, layer.linear_K2d, layer.linear_V2d)
    for head in range(layer.num_heads):
        own = slice(head * width, (head + 1) * width)
        q, k, v = (linear(x)[:, own] for linear in linears)
        parts.append((q @ k[valid].T / width**0.5).softmax(1) @ v[valid])
    return layer.linear_d2Q(torch.cat(parts, 1))


def slow_carl(objective, batch):
    """SCL; negatives are frames of every view but the own one, or of the video alone (papers/carl.md section 4)."""
    features = slow_features(objective, batch)
    z = F.normalize(objective.projection.net(features.flatten(0, 2)), dim=1)
    shape = batch["steps"].shape
    video, view, _ = (torch.from_numpy(x).flatten() for x in np.indices(shape))
    time = (batch["steps"] / batch["num_source_frames"][:, None, None]).flatten().double()
    length = batch["num_source_frames"][:, None, None].expand(shape).flatten()
    valid, total = batch["frame_valid"].flatten(), 0.0
    for i in valid.nonzero().flatten():
        counterpart = (video == video[i]) & (view != view[i]) & valid
        distance = time[i] * length - time * length
        near = torch.where(counterpart, torch.exp(-(distance**2) / (2 * 4.0)), 0.0)
        target = near / near.sum() if near.sum() > 1e-37 else near * 0
        others = ((video != video[i]) | (view != view[i])).double()
        if objective.config.negatives == "single_noself":
            others *= video == video[i]
        others = torch.where(valid, others, 1e-6 * torch.ones_like(others))
        alike = torch.exp(z @ z[i] / 0.3)
        p = alike / (others * alike).sum()
        total = total + (torch.xlogy(target, target) - target * (p + 1e-6).log()).sum()
    return total / valid.sum()


def slow_tcc(objective, batch):
    """The published loss: padded frames count like others (papers/tcc.md section 1)."""
    z = slow_features(objective, batch).flatten(0, 1)
    time = (batch["steps"] / batch["num_source_frames"][:, None, None]).flatten(0, 1).double()
    smooth = 0.1 / 5
    label = torch.full((6, 6), smooth).double().fill_diagonal_(1 - 0.1)
    terms = []

    def alike(a, b):
        return -(a[:, None] - b[None]).square().sum(-1) / (6 * 0.1)

    for i, j in itertools.permutations(range(len(z)), 2):
        near = alike(z[i], z[j]).softmax(1) @ z[j]
        back = alike(near, z[i]).softmax(1)
        found, wanted = back @ time[i], label @ time[i]
        variance = (back * (time[i][None] - found[:, None]).square()).sum(1)
        terms.append((wanted - found).square() / variance + 0.001 * variance.log())
    return torch.stack(terms).mean()


def slow_tcn(objective, batch):
    z = F.normalize(slow_features(objective, batch), dim=-1).flatten(0, 1)
    losses = []
    for view in z:
        anchors, positives = view[0::2], view[1::2]
        for i, anchor in enumerate(anchors):
            contrast = -(positives @ anchor / 0.5).log_softmax(0)[i]
            lengths = anchor.square().sum() + positives[i].square().sum()
            losses.append(contrast + 0.1 / 4 * lengths)
    return torch.stack(losses).mean()


def slow_hico(objective, batch):
    """Anchor by anchor and pair by pair."""
    config, features = objective.config, []
    for _, _, clip in clips_of(batch, ((0.45,) * 3, (0.225,) * 3), "hico"):
        features.append(objective.encoder(clip).mean(1)[0])
    features, clips = torch.stack(features), config.clip.num_clips
    z, h = (
        F.normalize(torch.nn.Sequential(*head)(features), dim=1)
        for head in (objective.visual, objective.topical)
    )
    owner = [row // clips for row in range(len(z))]
    visual, same, other = [], [], []
    for i, j in np.ndindex(len(z), len(z)):
        if i != j and owner[i] == owner[j] and max(i % clips, j % clips) < 2:
            rest = [z[i] @ z[k] for k in range(len(z)) if owner[k] != owner[i]]
            scores = torch.stack([z[i] @ z[j], *rest]) / config.temperature
            visual.append(-scores.log_softmax(0)[0])
        p = objective.judge.out(objective.judge.hidden(torch.cat([h[i], h[j]])).relu()).sigmoid()
        if i != j and owner[i] == owner[j]:
            same.append((1 - p) ** config.focus * (p + 1e-5).log())
        if owner[i] != owner[j]:
            other.append(p**config.focus * (1 - p + 1e-5).log())
    topical = -torch.stack(same).mean() - torch.stack(other).mean()
    return 0.5 * torch.stack(visual).mean() + 2.0 * topical


def slow_bevt(objective, batch):
    """Clip by clip and cell by cell."""
    losses = []
    mean, std = (torch.tensor(x).double().view(3, 1, 1, 1) for x in IMAGENET)
    for video, small, mask in zip(batch["video"], batch["words"], batch["mask"], strict=True):
        clip = (video.movedim(-1, 0).double() / 255 - mean) / std
        log_p = objective.lm_head(objective.network(clip[None], mask[None]))[0].log_softmax(1)
        words = objective.frozen["tokenizer"].module.encode(small.movedim(-1, 1).double() / 255)
        for t, y, x in np.ndindex(4, 4, 4):
            if mask[t // 2, y, x]:
                losses.append(-log_p[16 * t + 4 * y + x, words[t, y, x]])
    return 0.5 * torch.stack(losses).mean()


def slow_tokenizer(objective, batch):
    """Picture by picture; the word of a cell is the one at the smallest angle."""
    network, errors, distances = objective.encoder, [], []
    for picture in batch["video"].flatten(0, 1):
        pixels = picture.movedim(-1, 0)[None].double() / 255
        vectors = network.latents(pixels)
        words = torch.empty_like(vectors)
        for y, x in np.ndindex(2, 2):
            angles = [float(vectors[0, :, y, x] @ word) for word in network.codebook.words]
            words[0, :, y, x] = network.codebook.words[int(np.argmax(angles))]
        found = network.decoder(vectors + (words - vectors).detach())
        errors.append((found - pixels).square().mean())
        distances.append((vectors - words.detach()).square().mean())
    return 10 * torch.stack(errors).mean() + 0.25 * torch.stack(distances).mean()


SLOW = {
    "hico": slow_hico,
    "bevt": slow_bevt,
    "tokenizer": slow_tokenizer,
    "mae": slow_mae,
    "videomae": slow_videomae,
    "mvd": slow_mvd,
    "supervised": slow_supervised,
    "supervised_sound": slow_supervised_sound,
    "carl": slow_carl,
    "tcc": slow_tcc,
    "tcn": slow_tcn,
}

# The comparison -----------------------------------------------------------------------------------


def saved_tokenizer(folder):
    return save_encoder(
        folder / "tokenizer",
        VQTokenizer(VQConfig(width=4, dim=5, vocab_size=9)).eval(),
        architecture="vq_tokenizer",
        preprocess=VideoPreprocess(num_frames=1, frame_stride=1, size=32),
        source={},
    )


def made(name, changes, folder):
    """The objective in evaluation mode, and a raw batch."""
    torch.manual_seed(0)
    config = build_config(OBJECTIVES[name].config(), {**SETTINGS[name], **changes})
    ready = {}
    if name == "mvd":
        ready = {"teachers": teachers()}
    if name == "bevt":
        ready = {"stages": {"tokenizer": saved_tokenizer(folder)}}
    objective = spread(OBJECTIVES[name].objective()(config, **ready)).eval()
    return objective, raw_batch(name, config)


def with_gradients(objective, compute):
    loss = compute()
    loss.backward()
    return loss, {n: p.grad for n, p in objective.named_parameters() if p.requires_grad}


def test_loss_and_gradients_of_raw_batches_are_those_of_a_slow_version(case, tmp_path):
    """Were seen by no test: CARL's frames encoded without their mask, MVD's teachers or its student given pixels that
    are not normalised."""
    state = torch.get_rng_state()
    objective, batch = made(*case, tmp_path)
    torch.set_rng_state(state)
    assert batch["video"].dtype == torch.uint8 if "video" in batch else "sound" in batch
    exact = copy.deepcopy(objective).double()
    loss, gradients = with_gradients(objective, lambda: objective(batch).loss)
    wanted, expected = with_gradients(exact, lambda: SLOW[case[0]](exact, batch))
    torch.testing.assert_close(loss.double(), wanted, rtol=1e-5, atol=1e-6)
    scale = max(float(g.abs().max()) for g in expected.values())
    for key, gradient in expected.items():
        torch.testing.assert_close(
            gradients[key].double(),
            gradient,
            rtol=1e-3,
            atol=1e-5 * scale,
            msg=lambda m, k=key: f"{k}: {m}",
        )
