"""CARL against the numbers of its reference; the weakly supervised term against slow numpy of our own formulation.

Tolerances are those of the files' README.
"""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from video_ssl.models.exchange.carl_weights import CARL_KEYS, CarlModel, config_of
from video_ssl.models.networks.frame_config import FrameTransformerConfig
from video_ssl.models.networks.frame_transformer import ProjectionHead, TransformerHead
from video_ssl.models.weights import renamed_keys
from video_ssl.objectives.carl.scl import scl_loss
from video_ssl.objectives.carl.weak import align_pairs, warp_pairs, weak_loss
from video_ssl.objectives.dtw import dtw, first_match
from video_ssl.objectives.frame_pairs import Views


def loss_of(g, embs):
    return scl_loss(
        embs,
        g["steps"],
        g["seq_lens"][:, 0],
        g["masks"] > 0,
        negatives=str(g["negative_type"]),
        temperature=float(g["temperature"]),
        variance=float(g["variance"]),
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_loss_with_its_operands_and_gradients(golden, carl_scl, dtype):
    g = carl_scl
    embs = g["embs"].to(dtype).requires_grad_()
    terms = loss_of(g, embs)
    terms.loss.backward()
    assert terms.loss.dtype == dtype
    golden.close(terms.loss, g["loss_f64"], 0, 1e-5)
    golden.close(embs.grad, g["grad_embs"], 1e-5)
    golden.close(terms.target, g["target"], 1e-6)
    valid = g["masks"].flatten() > 0
    both = valid[:, None] & valid
    golden.close(terms.log_prob[both], g["log_prob"][both], 1e-4)


def head_of(g, params, **changes):
    """Head and projection with the weights of a file; sizes are read off the weights."""
    widths = [params[f"embed.fc_layers.{i}.weight"].shape[0] for i in (1, 5)]
    config = FrameTransformerConfig(
        num_frames=int(g["hp_T"]),
        fc_dims=tuple(widths),
        hidden_dim=params["embed.video_emb.weight"].shape[0],
        num_layers=int(g["hp_N"]),
        num_heads=int(g["hp_H"]),
        ffn_dim=params["embed.video_encoder.enc_layers.0.feed_forward.fc1.weight"].shape[0],
        embed_dim=params["embed.embedding_layer.weight"].shape[0],
        **changes,
    )
    head = TransformerHead(config, g["features"].shape[-3])
    projection = ProjectionHead(config.embed_dim, params["ssl_projection.net.0.weight"].shape[0])
    both = torch.nn.ModuleDict({"embed": head, "ssl_projection": projection})
    both.load_state_dict(params, strict=True)
    return both


def test_head(golden, carl_head):
    g = carl_head
    model = head_of(g, g.params(), dropout=float(g["hp_drop"])).eval()
    head = model["embed"]
    mask = g["video_masks"] > 0 if "video_masks" in g else None
    with torch.no_grad():
        pooled = head.pool(g["features"].flatten(0, 1)).unflatten(0, g["features"].shape[:2])
        x = head.embed(pooled)
        golden.close(x, g["after_video_emb"], 1e-5)
        x = x + head.table(x.shape[1], x.device)
        golden.close(x, g["after_pos"], 1e-5)
        golden.close(head.video_encoder(x, mask), g["after_encoder"], 1e-5)
        raw = head(pooled, mask)
        golden.close(raw, g["embedding_raw"], 1e-5)
        golden.close(F.normalize(raw, dim=-1), g["embedding_l2"], 2e-6)
        projected = F.normalize(model["ssl_projection"](raw), dim=-1)
        golden.close(projected, g["projection_l2"], 2e-6)


def test_training_step(golden, carl_step):
    g = carl_step
    model = head_of(g, g.params(), dropout=0.0).train()
    head, shape = model["embed"], g["features"].shape[:3]
    pooled = head.pool(g["features"].flatten(0, 2)).view(shape[0] * shape[1], shape[2], -1)
    raw = head(pooled, g["masks"].flatten(0, 1) > 0)
    z = F.normalize(model["ssl_projection"](raw), dim=-1)
    loss = loss_of(g, z.view(*shape, -1)).loss
    loss.backward()
    golden.close(loss, g["loss"], 0, 1e-5)
    gradients = {name: p.grad for name, p in model.named_parameters()}
    assert {f"grad/{n}" for n in gradients} == {n for n in g.names if n.startswith("grad/")}
    for name, gradient in gradients.items():
        golden.close(gradient, g[f"grad/{name}"], 1e-4, 1e-3)
    norm = torch.nn.utils.get_total_norm(list(gradients.values()))
    golden.close(norm, g["grad_norm"], 0, 1e-4)
    buffers = {f"buffer_after/{n}": b for n, b in model.named_buffers() if f"buffer_after/{n}" in g}
    assert buffers.keys() == {n for n in g.names if n.startswith("buffer_after/")}
    for name, buffer in buffers.items():
        golden.close(buffer, g[name], 1e-5)


def test_dtw(carl_dtw):
    g = carl_dtw.arrays
    for case in sorted({name.split("/")[0] for name in g.files}):
        result = dtw(g[f"{case}/cost"])
        np.testing.assert_allclose(result.acc_cost, g[f"{case}/acc_cost"], atol=1e-10, rtol=0)
        np.testing.assert_allclose(result.distance, g[f"{case}/distance"], atol=1e-10, rtol=0)
        assert result.path_i.tolist() == g[f"{case}/path_i"].tolist(), case
        assert result.path_j.tolist() == g[f"{case}/path_j"].tolist(), case
        matches = first_match(result.path_i, result.path_j, len(g[f"{case}/x"]))
        assert matches.tolist() == g[f"{case}/first_match"].tolist(), case


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_weak_term(golden, carl_weak, dtype):
    g = carl_weak
    embs = g["embs"].to(dtype)
    valid = g["masks"] > 0
    views = Views.of(embs, g["steps"], g["seq_lens"][:, 0], valid, g["labels"])
    settings = {"temperature": float(g["temperature"]), "variance": float(g["variance"])}
    loss, pairs = weak_loss(views, **settings)
    golden.close(loss, g["loss"], 0, 1e-5)
    u, v = views.pairs_of_label()
    assert len(u) == pairs
    assert int(views.count[u].sum()) == int(g["rows"])
    found, _ = align_pairs(views, u, v)
    times, _ = warp_pairs(views, u, v, warp="dtw")
    num_views = valid.shape[1]
    names = [
        f"{a // num_views}{a % num_views}_{b // num_views}{b % num_views}"
        for a, b in zip(u, v, strict=False)
    ]
    assert set(names) == {n.split("/")[1] for n in g.names if n.startswith("phi/")}
    for k, name in enumerate(names):
        length = len(g[f"path_i/{name}"])
        # Paths name frames of the view; ours count its valid frames.
        frames_u, frames_v = (valid.flatten(0, 1)[w[k]].nonzero().flatten() for w in (u, v))
        assert torch.equal(frames_u[found.path_i[k, :length]], g[f"path_i/{name}"])
        assert torch.equal(frames_v[found.path_j[k, :length]], g[f"path_j/{name}"])
        assert (found.path_i[k, length:] == -1).all()
        golden.close(times[k, : views.count[u[k]]], g[f"phi/{name}"], 1e-10)


def test_keys_of_published_checkpoints(carl_keys):
    names = [str(name) for name in carl_keys["names"]]
    shapes = [tuple(int(n) for n in row if n >= 0) for row in carl_keys["shapes"]]
    state = {n: torch.empty(s, device="meta") for n, s in zip(names, shapes, strict=True)}
    config = config_of(state, num_frames=80)
    with torch.device("meta"):
        model = CarlModel(config, state["ssl_projection.net.0.weight"].shape[0])
    ours = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    places = renamed_keys(state, CARL_KEYS)
    assert {places[n]: s for n, s in zip(names, shapes, strict=True)} == ours
    kinds = dict(zip(names, map(str, carl_keys["dtypes"]), strict=True))
    for name, kind in kinds.items():
        assert str(model.state_dict()[places[name]].dtype).removeprefix(
            "torch."
        ) == kind.removeprefix("torch.")
