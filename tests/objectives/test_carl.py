"""CARL, TCC and TCN: losses against slow ones, edges, plans, the warm-up of the weak term, first weights."""

import itertools

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from video_ssl.objectives import OBJECTIVES
from video_ssl.objectives.carl.scl import scl_loss
from video_ssl.objectives.carl.weak import weak_loss
from video_ssl.objectives.shared.frame_objective import time_error
from video_ssl.objectives.shared.frame_pairs import Views
from video_ssl.objectives.tcc.objective import cycle_back_loss
from video_ssl.objectives.tcn.objective import npairs_loss, time_contrastive_loss
from video_ssl.recipes import ConfigError, build_config

ENCODER = {
    "head": "transformer",
    "backbone": "small",
    "small_width": 4,
    "fc_dims": [16],
    "hidden_dim": 16,
    "num_layers": 1,
    "num_heads": 2,
    "ffn_dim": 16,
    "embed_dim": 12,
    "dropout": 0.0,
}


@pytest.fixture(autouse=True)
def _seed():
    state = torch.get_rng_state()
    torch.manual_seed(0)
    yield
    torch.set_rng_state(state)


def frames(b=3, v=2, t=7, d=5, seed=0, length=(9, 30)):
    """Embeddings of unit length with steps, validity (a prefix) and lengths of their videos."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(*length, b)
    steps, valid = np.zeros((b, v, t), np.int64), np.zeros((b, v, t), bool)
    for i, j in itertools.product(range(b), range(v)):
        count = int(rng.integers(2, t + 1))
        steps[i, j] = lengths[i] - 1
        steps[i, j, :count] = np.sort(rng.choice(lengths[i], count, replace=False))
        valid[i, j, :count] = True
    z = F.normalize(torch.from_numpy(rng.normal(size=(b, v, t, d))), dim=-1)
    return z, *(torch.from_numpy(x) for x in (steps, lengths, valid))


# SCL ----------------------------------------------------------------------------------------------


def slow_scl(z, steps, lengths, valid, negatives, temperature, variance):
    """The definition, row by row, in float64 with the exponentials written out; lengths by view, (B, V)."""
    rows = list(itertools.product(*map(range, z.shape[:3])))
    total = 0.0
    for a in rows:
        if not valid[a]:
            continue
        weights, denominator = {}, 0.0
        for b in rows:
            both = bool(valid[b])
            same_video, same_view = a[0] == b[0], a[:2] == b[:2]
            distance = abs(steps[a] / lengths[a[:2]] * lengths[b[:2]] - steps[b]) if both else 1e6
            weights[b] = np.exp(-(float(distance) ** 2) / (2 * variance)) * (
                same_video and not same_view
            )
            share = 1.0
            if "single" in negatives and not same_video:
                share = 0.0
            if "noself" in negatives and same_view:
                share = 0.0
            if not both:
                share = 1e-6
            denominator += share * np.exp(float(z[a] @ z[b]) / temperature)
        mass = sum(weights.values())
        if mass < 1e-37:
            continue
        for b in rows:
            w = weights[b] / mass
            if w > 0 and valid[b]:
                p = np.exp(float(z[a] @ z[b]) / temperature) / denominator
                total += w * (np.log(w) - np.log(p + 1e-6))
    return total / int(valid.sum())


@pytest.mark.parametrize("negatives", ["single_noself", "batch_noself", "single", "batch"])
@pytest.mark.parametrize("shape", [(1, 2, 5), (2, 2, 4), (2, 3, 3)])
def test_scl_equals_the_definition(negatives, shape):
    z, steps, lengths, valid = frames(*shape)
    settings = {"negatives": negatives, "temperature": 0.2, "variance": 6.0}
    found = scl_loss(z, steps, lengths, valid, **settings).loss
    by_view = lengths[:, None].expand(valid.shape[:2])
    expected = slow_scl(z, steps, by_view, valid, **settings)
    np.testing.assert_allclose(float(found), expected, rtol=1e-5)
    assert scl_loss(z, steps, by_view, valid, **settings).loss == found


def test_scl_of_views_that_differ_in_length():
    """Was wrong: a video had one length, so a view at another speed was compared at the wrong times."""
    z, steps, lengths, valid = frames(2, 2, 6)
    by_view = torch.stack([lengths, 2 * lengths + 5], 1)
    settings = {"negatives": "batch_noself", "temperature": 0.2, "variance": 6.0}
    found = scl_loss(z, steps, by_view, valid, **settings).loss
    np.testing.assert_allclose(
        float(found), slow_scl(z, steps, by_view, valid, **settings), rtol=1e-5
    )
    assert not torch.isclose(found, scl_loss(z, steps, lengths, valid, **settings).loss)
    views = Views.of(z, steps, by_view, valid, torch.tensor([0, 0]))
    assert views.num_source.tolist() == by_view.flatten().tolist()
    # Views at half speed agree on the time: features that know the share of the video match without an error.
    share = torch.arange(8) / 8
    features = F.normalize(torch.stack([share.cos(), share.sin()], -1), dim=-1)
    batch = {
        "steps": torch.stack([torch.arange(8), 2 * torch.arange(8)])[None],
        "frame_valid": torch.ones(1, 2, 8, dtype=torch.bool),
        "num_source_frames": torch.tensor([[8, 16]]),
    }
    assert time_error(features.expand(1, 2, 8, 2), batch) == 0


def test_low_temperatures_do_not_overflow():
    z, steps, lengths, valid = frames()
    z = z.float().requires_grad_()
    terms = scl_loss(z, steps, lengths, valid, temperature=0.005)
    terms.loss.backward()
    assert torch.isfinite(terms.loss)
    assert z.grad.isfinite().all()
    assert terms.log_prob.min() >= np.log(1e-6) - 1e-4


def test_far_views_have_no_target_but_count_in_the_mean():
    z = F.normalize(torch.randn(1, 2, 3, 4), dim=-1)
    steps = torch.tensor([[[0, 1, 2], [0, 500, 900]]])
    lengths, valid = torch.tensor([1000]), torch.ones(1, 2, 3, dtype=torch.bool)
    terms = scl_loss(z, steps, lengths, valid)
    sums = terms.target.sum(1)
    torch.testing.assert_close(sums, torch.tensor([1.0, 1, 1, 1, 0, 0]))
    rows = torch.xlogy(terms.target, terms.target) - terms.target * terms.log_prob
    torch.testing.assert_close(terms.loss, rows.sum() / 6)
    # 42 frames away, the Gaussian is denormal in float32: no target, whatever a back end makes of it.
    steps = torch.tensor([[[0, 1, 2], [44, 44, 44]]])
    assert scl_loss(z, steps, lengths, valid).target[0].sum() == 0


def test_frames_that_are_not_valid_change_nothing_but_the_small_weight():
    z, steps, lengths, valid = frames(seed=3)
    noise = torch.where(valid[..., None], z, F.normalize(torch.randn_like(z), dim=-1))
    assert not valid.all()
    plain, noisy = (scl_loss(x, steps, lengths, valid).loss for x in (z, noise))
    torch.testing.assert_close(plain, noisy, rtol=1e-3, atol=0)


def test_features_on_the_right_circle_have_nearly_no_loss():
    """cos(0.1 d) / 0.1 falls like -d^2 / 20: the similarity itself is the Gaussian of variance 10."""
    t = torch.arange(20)
    steps, angle = t.expand(1, 2, 20), t * 0.1
    z = torch.stack([angle.cos(), angle.sin()], -1).expand(1, 2, 20, 2).double()
    valid, lengths = torch.ones(1, 2, 20, dtype=torch.bool), torch.tensor([20])
    good = scl_loss(z, steps, lengths, valid).loss
    mixed = z.clone()
    mixed[:, 1] = z[:, 1].flip(1)
    bad = scl_loss(mixed, steps, lengths, valid).loss
    assert 0 <= good < 0.01
    assert bad > 1


# The weak term --------------------------------------------------------------------------------------


def test_weak_term_is_nothing_where_labels_do_not_meet():
    z, steps, lengths, valid = frames()
    for labels in ([0, 1, 2], [-1, -1, -1], [0, -1, 1]):
        views = Views.of(z, steps, lengths, valid, torch.tensor(labels))
        loss, pairs = weak_loss(views)
        assert loss == 0
        assert pairs == 0


def test_weak_pairs_are_ordered_and_never_of_one_video():
    z, steps, lengths, valid = frames(4)
    views = Views.of(z, steps, lengths, valid, torch.tensor([1, 2, 1, -1]))
    u, v = views.pairs_of_label()
    found = set(zip(u.tolist(), v.tolist(), strict=True))
    expected = {(a, b) for a in (0, 1) for b in (4, 5)}
    assert found == expected | {(b, a) for a, b in expected}
    same = views.same_video()
    assert same.sum() == 8
    assert same[0, 1]
    assert not same[0, 0]


def test_linear_warp_takes_the_share_of_the_video():
    z, steps, lengths, valid = frames(2)
    views = Views.of(z, steps, lengths, valid, torch.tensor([0, 0]))
    loss, _ = weak_loss(views, warp="linear", variance=4.0, temperature=0.3)
    total, rows = 0.0, 0
    for a, b in ((0, 1), (1, 0)):
        for i, j in itertools.product(range(2), range(2)):
            mine, theirs = valid[a, i], valid[b, j]
            phi = steps[a, i][mine].double() / lengths[a] * lengths[b]
            w = (-((phi[:, None] - steps[b, j][theirs]) ** 2) / 8).softmax(-1)
            log_p = (z[a, i][mine] @ z[b, j][theirs].T / 0.3).log_softmax(-1)
            total += float((w * (w.log() - log_p)).sum())
            rows += len(phi)
    np.testing.assert_allclose(float(loss), total / rows, rtol=1e-6)


def test_pairs_that_do_not_align_can_be_left_out():
    steps = torch.arange(6).expand(2, 1, 6)
    valid, lengths = torch.ones(2, 1, 6, dtype=torch.bool), torch.tensor([6, 6])
    curve = torch.linspace(0, 1.5, 6, dtype=torch.float64)
    z = torch.stack([curve.cos(), curve.sin()], -1).expand(2, 1, 6, 2)
    labels = torch.tensor([0, 0])
    kept, pairs = weak_loss(Views.of(z, steps, lengths, valid, labels), close_pairs_only=True)
    every, _ = weak_loss(Views.of(z, steps, lengths, valid, labels))
    assert pairs == 2
    torch.testing.assert_close(kept, every)
    # One sequence backwards: the path costs no less than frames that meet by chance.
    backwards = torch.stack([z[0], z[1].flip(1)])
    loss, pairs = weak_loss(
        Views.of(backwards, steps, lengths, valid, labels), close_pairs_only=True
    )
    assert pairs == 0
    assert loss == 0


def objective_of(name, **changes):
    content = {
        "frames": {"kind": "offset_uniform", "num_frames": 7, "num_views": 2},
        "crop": {"size": 16},
        "color": None,
        "encoder": ENCODER,
        **changes,
    }
    return OBJECTIVES[name].objective()(build_config(OBJECTIVES[name].config(), content))


def batch_of(labels, progress=0.5, **changes):
    _, steps, lengths, valid = frames(len(labels), **changes)
    return {
        "video": torch.randint(0, 256, (*steps.shape, 16, 16, 3), dtype=torch.uint8),
        "steps": steps,
        "frame_valid": valid,
        "num_source_frames": lengths,
        "label": torch.tensor(labels),
        "progress": torch.full((len(labels),), progress),
    }


def test_the_weak_term_joins_after_the_warm_up():
    objective = objective_of("carl", weak={"weight": 0.5, "warmup": 0.2}).eval()
    batch = batch_of([1, 1, 0])
    early, before, *_ = objective({**batch, "progress": torch.full((3,), 0.19)})
    late, after, *_ = objective(batch)
    assert before["loss_weak"] == before["weak_pairs"] == 0
    assert before.keys() == after.keys()
    assert after["weak_pairs"] == 8
    torch.testing.assert_close(before["loss_scl"], after["loss_scl"])
    torch.testing.assert_close(late, early + after["loss_weak"])
    full = objective_of("carl", weak={"weight": 1.0, "warmup": 0.2}).eval()
    full.load_state_dict(objective.state_dict())
    torch.testing.assert_close(full(batch).figures["loss_weak"], 2 * after["loss_weak"])
    loss = objective.train()(batch).loss
    loss.backward()
    assert all(p.grad.isfinite().all() for p in objective.parameters())


def test_time_error_of_features_that_know_the_time_is_nothing():
    t = torch.arange(8)
    z = F.normalize(torch.stack([torch.cos(t / 8), torch.sin(t / 8)], -1), dim=-1)
    batch = {
        "steps": t.expand(1, 2, 8),
        "frame_valid": torch.ones(1, 2, 8, dtype=torch.bool),
        "num_source_frames": torch.tensor([8]),
    }
    assert time_error(z.expand(1, 2, 8, 2), batch) == 0
    backwards = torch.stack([z, z.flip(0)])[None]
    torch.testing.assert_close(
        time_error(backwards, batch), (t - t.flip(0)).abs().float().mean() / 8
    )


def test_a_padded_batch_trains_without_a_number_that_is_none():
    for name, changes in (
        ("carl", {}),
        ("tcc", {}),
        ("tcc", {"pairs": "video", "mask_padding": True}),
        ("tcn", {"loss": "window"}),
    ):
        objective = objective_of(name, **changes)
        loss, _, features, _ = objective(batch_of([0, 0, 1]))
        loss.backward()
        assert torch.isfinite(loss)
        assert features.isfinite().all()
        assert all(p.grad is None or p.grad.isfinite().all() for p in objective.parameters())


# Baselines ------------------------------------------------------------------------------------------


def slow_cycles(z, steps, lengths, valid, pairs, settings):
    """Frame by frame from the definition; returns the terms and the distances in time."""
    terms, errors = [], []
    for a, b in pairs:
        count = (lambda x: int(valid[x].sum())) if settings.mask_padding else (lambda x: z.shape[1])
        u, v = z[a, : count(a)], z[b, : count(b)]
        time = steps[a, : count(a)].double()
        time = time / lengths[a] if settings.normalize_indices else time
        divisor = settings.temperature * (z.shape[-1] if settings.divide_by_width else 1)

        def alike(x, others, divisor=divisor):
            if settings.similarity == "cosine":
                return others @ x / divisor
            return -((x - others) ** 2).sum(-1) / divisor

        for i in range(len(u)):
            logits = alike(alike(u[i], v).softmax(0) @ v, u)
            back = logits.softmax(0)
            label = torch.full((len(u),), settings.label_smoothing / max(len(u) - 1, 1))
            label[i] = 1 - settings.label_smoothing if len(u) > 1 else 1.0
            label = label.double()
            found, wanted = float(back @ time), float(label @ time)
            error = abs(wanted - found)
            variance = max(float(back @ (time - found) ** 2), settings.variance_floor)
            terms.append(
                {
                    "regression_mse_var": lambda e=error, v=variance: (
                        e**2 / v + settings.variance_weight * np.log(v)
                    ),
                    "regression_mse": lambda e=error: e**2,
                    "regression_huber": lambda e=error: e**2 / 2 if e < 1 else e - 0.5,
                    "classification": lambda label=label, x=logits: float(
                        (torch.xlogy(label, label) - label * x).mean()
                    ),
                }[settings.loss]()
            )
            errors.append(error)
    return terms, errors


OURS = {
    "pairs": "label",
    "unit_length": True,
    "divide_by_width": False,
    "temperature": 0.3,
    "label_smoothing": 0.0,
    "variance_floor": 1e-4,
    "mask_padding": True,
}


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"similarity": "cosine", "temperature": 0.5},
        {"loss": "regression_mse", "normalize_indices": False},
        {"loss": "regression_huber", "normalize_indices": False},
        {"loss": "classification", "label_smoothing": 0.2},
        {"pairs": "label", "mask_padding": True},
        {"pairs": "label", "loss": "classification", "mask_padding": True, "label_smoothing": 0.0},
        OURS,
        {**OURS, "label_smoothing": 0.3, "variance_weight": 0.1},
    ],
)
def test_cycle_back_loss_equals_the_definition(changes):
    z, steps, lengths, valid = (x if x.dim() == 1 else x[:, 0] for x in frames(3, 1))
    settings = build_config(OBJECTIVES["tcc"].config(), changes)
    if not settings.unit_length:
        z = z * 2
    views = Views.of(z[:, None], steps[:, None], lengths, valid[:, None], torch.tensor([4, 4, 9]))
    pairs = (
        [(0, 1), (1, 0)] if settings.pairs == "label" else list(itertools.permutations(range(3), 2))
    )
    loss, error, count = cycle_back_loss(views, settings)
    terms, errors = slow_cycles(z, steps, lengths, valid, pairs, settings)
    np.testing.assert_allclose(float(loss), np.mean(terms), rtol=1e-6)
    np.testing.assert_allclose(float(error), np.mean(errors), rtol=1e-6)
    assert count == len(pairs)


def test_cycles_without_a_pair_are_nothing():
    z, steps, lengths, valid = frames(3, 1)
    settings = build_config(OBJECTIVES["tcc"].config(), {"pairs": "label"})
    views = Views.of(z.requires_grad_(), steps, lengths, valid, torch.tensor([-1, 0, 1]))
    loss, error, count = cycle_back_loss(views, settings)
    loss.backward()
    assert (loss, error, count) == (0, 0, 0)
    assert (z.grad == 0).all()


def test_pairs_that_are_left_out_may_have_no_variance():
    """A video of one frame has one time for all: log 0 of a pair that does not count must not reach the gradient."""
    z, steps, lengths, valid = frames(3, 1)
    steps[2] = 0
    settings = build_config(OBJECTIVES["tcc"].config(), {"pairs": "label"})
    views = Views.of(z.requires_grad_(), steps, lengths, valid, torch.tensor([4, 4, -1]))
    loss, _, count = cycle_back_loss(views, settings)
    loss.backward()
    assert count == 2
    assert loss.isfinite()
    assert z.grad.isfinite().all()


def test_npairs_loss_equals_the_definition():
    z = torch.randn(2, 8, 5, dtype=torch.float64)
    loss, accuracy = npairs_loss(z, temperature=0.7, norm_penalty=0.4)
    total, right = 0.0, []
    for view in z.numpy():
        anchors, positives = view[0::2], view[1::2]
        scores = anchors @ positives.T / 0.7
        rows = [np.log(np.exp(row).sum()) - row[i] for i, row in enumerate(scores)]
        lengths = (anchors**2).sum(1).mean() + (positives**2).sum(1).mean()
        total += np.mean(rows) + 0.1 * lengths
        right += [int(row.argmax() == i) for i, row in enumerate(scores)]
    np.testing.assert_allclose(float(loss), total / 2, rtol=1e-12)
    assert float(accuracy) == pytest.approx(np.mean(right))


def test_what_baselines_compare_is_what_evaluations_see():
    """TCC compares embeddings as they come, TCN of unit length; both say so to the encoder they export."""
    video = torch.rand(1, 3, 4, 16, 16)
    lengths = {
        name: objective_of(name, **changes).encoder.eval().frame_features(video).norm(dim=-1)
        for name, changes in (("tcc", {}), ("tcn", {"loss": "window"}))
    }
    assert not torch.allclose(lengths["tcc"], torch.ones(1, 4), atol=1e-2)
    torch.testing.assert_close(lengths["tcn"], torch.ones(1, 4))


def test_time_contrastive_loss_equals_the_definition():
    z, steps, _, valid = frames(2, 1, 8)
    z, steps, valid = z[:, 0], steps[:, 0], valid[:, 0]
    loss, accuracy = time_contrastive_loss(z, steps, valid, window=3, temperature=0.2)
    terms, right = [], []
    for n in range(2):
        s = (z[n] @ z[n].T / 0.2).numpy()
        for i, p in itertools.permutations(range(8), 2):
            if not (valid[n, i] and valid[n, p] and abs(steps[n, i] - steps[n, p]) <= 3):
                continue
            others = [
                s[i, k] for k in range(8) if valid[n, k] and abs(steps[n, i] - steps[n, k]) > 3
            ]
            terms.append(-np.log(np.exp(s[i, p]) / (np.exp(s[i, p]) + np.exp(others).sum())))
            right.append(all(s[i, p] > o for o in others))
    np.testing.assert_allclose(float(loss), np.mean(terms), rtol=1e-6)
    np.testing.assert_allclose(float(accuracy), np.mean(right), rtol=1e-6)
    assert time_contrastive_loss(z, steps * 100, valid, window=3, temperature=0.2)[0] == 0


# Settings -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "content", "text"),
    [
        ("carl", {"temperature": 0.0}, "temperature=0.0 and variance=10.0 must be positive"),
        ("carl", {"frames": {"kind": "offset_uniform", "num_views": 1}}, "Use 2"),
        ("carl", {"encoder": {"num_frames": 7}}, "leave encoder.num_frames empty"),
        ("carl", {"weak": {"warmup": 1.0}}, r"warmup=1.0 must lie in \[0, 1\)"),
        ("carl", {"init": {"kind": "byol"}}, "'byol' need one"),
        ("carl", {"init": {"kind": "random", "file": "a.pth"}}, "'random' takes no file"),
        (
            "carl",
            {"init": {"kind": "byol", "file": "a"}, "encoder": {"backbone": "small"}},
            "is for encoder.backbone='resnet50'",
        ),
        ("carl", {"negatives": "single_nself"}, "negatives"),
        ("tcc", {"pairs": "video"}, "pairs='video' needs 2 views"),
        ("tcc", {"label_smoothing": 1.0}, r"label_smoothing=1.0 must lie in \[0, 1\)"),
        ("tcc", {"variance_floor": -1.0}, "variance_floor=-1.0 must not be negative"),
        (
            "tcc",
            {"encoder": {"unit_length": True}},
            "unit_length=True, but unit_length=False: leave encoder.unit_length empty",
        ),
        (
            "tcn",
            {"frames": {"kind": "offset_uniform", "num_views": 1}},
            "loss='npairs' needs anchors and positives",
        ),
        (
            "tcn",
            {"frames": {"kind": "anchor_positive", "num_frames": 7}},
            "num_frames=7: kind='anchor_positive' shows pairs",
        ),
        ("carl", {"frames": {"num_views": 3}}, "Use 2, 1, or 'offset_uniform'"),
        ("carl", {"frames": {"num_views": 1}}, "CARL compares the views"),
        ("tcn", {"window": 0}, "window=0 must be at least 1 frame"),
        ("tcn", {"norm_penalty": -1.0}, "norm_penalty=-1.0 must not be negative"),
        (
            "tcn",
            {"encoder": {"head": "transformer", "hidden_dim": 20, "num_heads": 8}},
            "not divisible by num_heads=8",
        ),
        ("tcn", {"encoder": {"frozen_parts": 6, "head": "transformer"}}, "so 0 to 5"),
        ("tcn", {"encoder": {"frozen_parts": 5, "head": "conv"}}, "so 0 to 4"),
    ],
)
def test_refused_settings_say_why(name, content, text):
    with pytest.raises(ConfigError, match=text):
        build_config(OBJECTIVES[name].config(), content)
