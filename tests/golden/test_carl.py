"""CARL against the numbers of its reference; the weakly supervised term against slow numpy of our own formulation."""

import pytest
import torch
import torch.nn.functional as F
from scipy.spatial.distance import cdist

from video_ssl.evaluate.distances import squared_distances
from video_ssl.models.exchange.carl_weights import CARL_KEYS, CarlModel, config_of
from video_ssl.models.networks.frame_config import FrameTransformerConfig
from video_ssl.models.networks.frame_transformer import ProjectionHead, TransformerHead
from video_ssl.models.weights import renamed_keys
from video_ssl.objectives.carl.scl import scl_loss
from video_ssl.objectives.carl.weak import align_pairs, warp_pairs, weak_loss
from video_ssl.objectives.shared.dtw import dtw, first_match
from video_ssl.objectives.shared.frame_pairs import Views


def scl_of(g, embs):
    settings = g.settings
    assert settings["positive_type"] == "gauss"
    assert settings["log_eps"] == 1e-6
    return scl_loss(
        embs,
        g.tensor("steps"),
        g.tensor("seq_lens"),
        g.tensor("masks") > 0,
        negatives=settings["negative_type"],
        temperature=settings["temperature"],
        variance=settings["variance"],
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.golden("carl/scl")
def test_loss_with_its_operands_and_gradients(golden, dtype):
    embs = golden.tensor("embs").to(dtype).requires_grad_()
    terms = scl_of(golden, embs)
    terms.loss.backward()
    assert terms.loss.dtype == dtype
    golden.check("loss_f64", terms.loss)
    golden.check("loss_f32", terms.loss)
    golden.check("grad_embs", embs.grad)
    golden.check("target", terms.target)
    valid = golden["masks"].reshape(-1) > 0
    golden.check("log_prob", terms.log_prob, where=valid[:, None] & valid)


def head_of(g, **changes):
    """Head and projection with the weights of a file."""
    settings, params = g.settings, g.tensors()
    assert settings["norm_eps"] == {"batch_norm": 1e-5, "layer_norm": 1e-5}
    config = FrameTransformerConfig(
        num_frames=settings["train_frames"],
        fc_dims=tuple(settings["fc_dims"]),
        hidden_dim=settings["hidden_dim"],
        num_layers=settings["num_layers"],
        num_heads=settings["num_heads"],
        ffn_dim=settings["ffn_dim"],
        embed_dim=settings["embed_dim"],
        **changes,
    )
    head = TransformerHead(config, g["features"].shape[-3])
    projection = ProjectionHead(config.embed_dim, settings["projection_dim"])
    both = torch.nn.ModuleDict({"embed": head, "ssl_projection": projection})
    both.load_state_dict(params, strict=True)
    return both


@pytest.mark.golden("carl/head")
def test_head(golden):
    model = head_of(golden, dropout=golden.settings["dropout"]).eval()
    head, features = model["embed"], golden.tensor("features")
    name = golden.settings["mask"]
    mask = None if name is None else golden.tensor(name) > 0
    with torch.no_grad():
        pooled = head.pool(features.flatten(0, 1)).unflatten(0, features.shape[:2])
        x = head.embed(pooled)
        golden.check("after_video_emb", x)
        x = x + head.table(x.shape[1], x.device)
        golden.check("after_pos", x)
        golden.check("after_encoder", head.video_encoder(x, mask))
        raw = head(pooled, mask)
        golden.check("embedding_raw", raw)
        golden.check("embedding_l2", F.normalize(raw, dim=-1))
        golden.check("projection_l2", F.normalize(model["ssl_projection"](raw), dim=-1))


@pytest.mark.golden("carl/train_step")
def test_training_step(golden):
    assert golden.settings["mode"] == "train"
    model = head_of(golden, dropout=golden.settings["dropout"]).train()
    head, features = model["embed"], golden.tensor("features")
    shape = features.shape[:3]
    pooled = head.pool(features.flatten(0, 2)).view(shape[0] * shape[1], shape[2], -1)
    raw = head(pooled, golden.tensor("masks").flatten(0, 1) > 0)
    z = F.normalize(model["ssl_projection"](raw), dim=-1)
    loss = scl_of(golden, z.view(*shape, -1)).loss
    loss.backward()
    golden.check("loss", loss)
    found = {name: p.grad for name, p in model.named_parameters()}
    golden.check_all({f"grad/{name}": grad for name, grad in found.items()})
    golden.check("grad_norm", torch.nn.utils.get_total_norm(list(found.values())))
    golden.check_all({f"buffer_after/{name}": b for name, b in model.named_buffers()})


def costs_of(case):
    """Squared distances are ours; other metrics are inputs of `dtw` that a user computes."""
    metric = case.settings["metric"]
    if metric == "sqeuclidean":
        return squared_distances(case["x"], case["y"])
    return cdist(case["x"], case["y"], metric)


@pytest.mark.golden("carl/dtw", unsupported=[("warp", lambda n: n != 1, "steps of more than one")])
def test_dtw(golden_case):
    cost = costs_of(golden_case)
    golden_case.check("cost", cost)
    result = dtw(cost)
    for name in ("acc_cost", "distance", "path_i", "path_j"):
        golden_case.check(name, getattr(result, name))
    matches = first_match(result.path_i, result.path_j, len(golden_case["x"]))
    golden_case.check("first_match", matches)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.golden("carl/weak")
def test_weak_term(golden, dtype):
    settings = golden.settings
    embs, valid = golden.tensor("embs").to(dtype), golden.tensor("masks") > 0
    views = Views.of(
        embs,
        golden.tensor("steps"),
        golden.tensor("seq_lens")[:, 0],
        valid,
        golden.tensor("labels"),
    )
    own = {name: settings[name] for name in ("temperature", "variance", "warp")}
    loss, pairs = weak_loss(views, **own)
    golden.check("loss", loss)
    u, v = views.pairs_of_label()
    assert len(u) == pairs
    golden.check("rows", int(views.count[u].sum()))
    found, _ = align_pairs(views, u, v)
    times, _ = warp_pairs(views, u, v, warp=settings["warp"])
    names = [f"{view_name(a, valid)}_{view_name(b, valid)}" for a, b in zip(u, v, strict=True)]
    for k, name in enumerate(names):
        # Paths name frames of the view; ours count its valid frames.
        frames = [valid.flatten(0, 1)[w[k]].nonzero().flatten() for w in (u, v)]
        ours = [path[k][path[k] >= 0] for path in (found.path_i, found.path_j)]
        golden.check(f"path_i/{name}", frames[0][ours[0]])
        golden.check(f"path_j/{name}", frames[1][ours[1]])
        golden.check(f"phi/{name}", times[k, : views.count[u[k]]])


def view_name(row, valid) -> str:
    """Video and view of a row, as the file names them."""
    return "".join(map(str, divmod(int(row), valid.shape[1])))


@pytest.mark.golden("carl/state_dict_keys")
def test_keys_of_published_checkpoints(golden):
    names = [str(name) for name in golden["names"]]
    shapes = [tuple(int(n) for n in row if n >= 0) for row in golden["shapes"]]
    state = {n: torch.empty(s, device="meta") for n, s in zip(names, shapes, strict=True)}
    config = config_of(state, num_frames=80)
    assert config.num_layers == golden.settings["num_layers"]
    with torch.device("meta"):
        model = CarlModel(config, state["ssl_projection.net.0.weight"].shape[0])
    places, ours = renamed_keys(state, CARL_KEYS), model.state_dict()
    assert {places[n] for n in names} == set(ours)
    # Every place is filled, so what is left to compare is what lies there.
    width = golden["shapes"].shape[1]
    found = [ours[places[n]] for n in names]
    golden.check("names", [n for n in names if places[n] in ours])
    golden.check("shapes", [[*t.shape, *[-1] * (width - t.ndim)] for t in found])
    prefix = "torch." if str(golden["dtypes"][0]).startswith("torch.") else ""
    golden.check("dtypes", [prefix + str(t.dtype).removeprefix("torch.") for t in found])
