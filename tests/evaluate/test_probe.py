"""The linear probe: known accuracies, heads trained together as alone, and a choice blind to test."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from video_ssl.embed.features import FeatureError, FeatureFile, features_from_arrays
from video_ssl.evaluate.contract import Given
from video_ssl.evaluate.linear import Fit, Head, LinearHeads
from video_ssl.evaluate.probe import LinearProbe, ProbeConfig

QUICK = ProbeConfig(
    poolings=("clip", "mean", "concat_2"),
    learning_rates=(1e-3, 1e-2),
    weight_decays=(0.01,),
    epochs=30,
    batch_size=64,
)


def made(
    seed: int, videos: int, *, order: bool = False, clips: int = 1, noise: float = 0.5
) -> FeatureFile:
    """Features of three classes: apart in the mean, or (`order`) only in what comes first."""
    rng = np.random.default_rng(seed)
    labels = np.arange(videos) % 3
    centres = np.random.default_rng(99).normal(size=(3, 8))
    ids = np.array([f"{seed}-{v}" for v in range(videos)])
    frames = noise * rng.normal(size=(videos, clips, 4, 8))
    if order:
        halves = [(0, 1), (1, 0), (2, 2)]
        for v, label in enumerate(labels):
            first, second = halves[label]
            frames[v, :, :2] += centres[first]
            frames[v, :, 2:] += centres[second]
    else:
        frames += centres[labels][:, None, None]
    flat = frames.reshape(videos * clips, 4, 8)
    return features_from_arrays(
        {
            "features": flat.mean(axis=1),
            "frame_features": flat,
            "labels": np.repeat(labels, clips),
            "ids": np.repeat(ids, clips),
        }
    )


def with_labels(features: FeatureFile, labels: np.ndarray) -> FeatureFile:
    frames = np.concatenate([m for m, _ in features.frame_batches()])
    return features_from_arrays(
        {
            "features": features.features,
            "frame_features": frames.reshape(len(features), -1, features.embed_dim),
            "labels": labels,
            "ids": features.ids.astype(str),
        }
    )


def test_separable_classes_are_recognised():
    result = LinearProbe(QUICK).evaluate(Given(made(1, 150), made(2, 90), seed=0))
    assert result.metrics["top1"] == 1.0
    assert (result.correct, result.total) == (90, 90)
    assert result.chance == pytest.approx(1 / 3)
    assert result.details["majority"] == pytest.approx(1 / 3)
    low, high = result.details["top1_interval_95"]
    assert 0.95 < low < high
    assert high == pytest.approx(1.0)


def test_accuracy_of_two_gaussians_is_the_known_one():
    """Two unit Gaussians 2 apart: the best linear rule is right with probability Phi(1) = 0.8413."""

    def gaussians(seed: int, count: int) -> FeatureFile:
        rng = np.random.default_rng(seed)
        labels = np.arange(count) % 2
        x = rng.normal(size=(count, 6))
        x[:, 2] += 2.0 * labels
        ids = np.array([f"{seed}-{i}" for i in range(count)])
        return features_from_arrays({"features": x, "labels": labels, "ids": ids})

    config = ProbeConfig(poolings=("clip",), learning_rates=(1e-3, 1e-2), epochs=20)
    result = LinearProbe(config).evaluate(Given(gaussians(1, 2000), gaussians(2, 4000), seed=0))
    assert result.metrics["top1"] == pytest.approx(0.8413, abs=0.018)  # three standard errors


def test_shuffled_labels_are_recognised_by_chance():
    train = made(1, 300)
    shuffled = np.random.default_rng(5).permutation(train.labels)
    result = LinearProbe(QUICK).evaluate(Given(with_labels(train, shuffled), made(2, 300), seed=0))
    assert result.metrics["top1"] == pytest.approx(1 / 3, abs=0.13)


def test_order_in_time_is_found_by_concatenation_only():
    train, test = made(1, 240, order=True), made(2, 120, order=True)
    result = LinearProbe(QUICK).evaluate(Given(train, test, seed=0))
    assert result.chosen["pooling"] == "concat_2"
    assert result.metrics["top1"] > 0.95
    best_mean = max(e["held_out_top1"] for e in result.details["grid"] if e["pooling"] == "mean")
    assert best_mean < 0.85
    assert len(result.details["grid"]) == 3 * 2


def test_choice_is_blind_to_test():
    train, test = made(1, 120, noise=2.0), made(2, 90, noise=2.0)
    probe = LinearProbe(QUICK)
    first = probe.evaluate(Given(train, test, seed=3))
    permuted = with_labels(test, np.random.default_rng(0).permutation(test.labels))
    second = probe.evaluate(Given(train, permuted, seed=3))
    assert first.chosen == second.chosen
    assert first.details["grid"] == second.details["grid"]
    assert first.metrics["top1"] > second.metrics["top1"]


def test_same_seed_same_numbers_and_the_global_generator_is_left_alone():
    train, test = made(1, 120, noise=2.0), made(2, 90, noise=2.0)
    torch.manual_seed(11)
    expected = torch.rand(1)
    torch.manual_seed(11)
    first = LinearProbe(QUICK).evaluate(Given(train, test, seed=7))
    assert torch.equal(torch.rand(1), expected)
    assert LinearProbe(QUICK).evaluate(Given(train, test, seed=7)) == first
    assert (
        LinearProbe(QUICK).evaluate(Given(train, test, seed=8)).details["grid"]
        != first.details["grid"]
    )


def test_clips_of_a_video_are_averaged():
    """With noise that one clip cannot beat, nine clips do."""
    one = LinearProbe(QUICK).evaluate(
        Given(made(1, 300, noise=8.0), made(2, 300, noise=8.0), seed=0)
    )
    many = LinearProbe(QUICK).evaluate(
        Given(made(1, 300, noise=8.0, clips=9), made(2, 300, noise=8.0, clips=9), seed=0)
    )
    assert many.total == 300
    assert many.metrics["top1"] > one.metrics["top1"] + 0.1


@pytest.mark.parametrize("refit", [True, False])
def test_the_head_that_is_tested_is_the_one_that_was_chosen(refit):
    """Whatever else is in the grid, the result is that of the chosen setting on its own."""
    train, test = made(1, 200, noise=3.0), made(2, 300, noise=3.0)
    settings = {"poolings": ("mean", "clip"), "weight_decays": (0.01,), "epochs": 20}
    rates = (1e-6, 2e-2, 1e-5)
    probe = LinearProbe(ProbeConfig(learning_rates=rates, refit=refit, **settings))
    result = probe.evaluate(Given(train, test, seed=0))
    rate = result.chosen["learning_rate"]
    settings["poolings"] = (result.chosen["pooling"],)
    correct = {}
    for other in rates:
        alone = LinearProbe(ProbeConfig(learning_rates=(other,), refit=refit, **settings))
        correct[other] = alone.evaluate(Given(train, test, seed=0)).correct
    assert result.correct == correct[rate]
    assert correct[rate] != correct[rates[0]]
    assert rate != rates[0]


def torch_heads(x, y, heads, num_classes, fit):
    """One head after the other with torch's own optimisers and autograd."""
    std, mean = torch.std_mean(x.double(), dim=0, correction=0)
    x = ((x - mean) / std).float()
    out = []
    for head in heads:
        weight = torch.zeros(x.shape[1], num_classes, requires_grad=True)
        bias = torch.zeros(num_classes, requires_grad=True)
        groups = [
            {"params": [weight], "weight_decay": head.weight_decay},
            {"params": [bias], "weight_decay": 0.0},
        ]
        if fit.optimizer == "sgd":
            optimizer = torch.optim.SGD(groups, lr=head.lr, momentum=0.9)
        else:
            optimizer = torch.optim.AdamW(groups, lr=head.lr)
        steps = fit.epochs * -(-len(x) // fit.batch_size)
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda s, n=steps: 0.5 * (1 + np.cos(np.pi * s / n))
        )
        generator = torch.Generator().manual_seed(fit.seed)
        for _ in range(fit.epochs):
            for rows in torch.randperm(len(x), generator=generator).split(fit.batch_size):
                loss = torch.nn.functional.cross_entropy(x[rows] @ weight + bias, y[rows])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
        out.append((x @ weight + bias).softmax(1).detach().numpy())
    return np.stack(out, axis=1)


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
@pytest.mark.parametrize(("count", "width", "num_classes"), [(70, 5, 3), (33, 12, 7)])
def test_heads_trained_together_end_where_each_ends_alone(optimizer, count, width, num_classes):
    rng = np.random.default_rng(count)
    x = (rng.normal(size=(count, width)) * 3 + 1).astype(np.float32)
    y = rng.integers(0, num_classes, count)
    heads = [Head(lr=lr, weight_decay=wd) for lr in (1e-3, 3e-2) for wd in (0.0, 0.3)]
    fit = Fit(epochs=6, batch_size=16, optimizer=optimizer, seed=4)
    together = LinearHeads(heads, num_classes).fit(x, y, fit).predict(x)
    expected = torch_heads(torch.from_numpy(x), torch.from_numpy(y), heads, num_classes, fit)
    np.testing.assert_allclose(together, expected, atol=2e-5)
    assert np.abs(together[:, 0] - together[:, 3]).max() > 0.01
    for number, head in enumerate(heads):
        alone = LinearHeads([head], num_classes).fit(x, y, fit).predict(x)
        np.testing.assert_allclose(alone[:, 0], together[:, number], atol=2e-5)


def test_a_constant_feature_changes_nothing():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(60, 4)).astype(np.float32)
    y = rng.integers(0, 3, 60)
    fit = Fit(epochs=3, batch_size=16, optimizer="adamw", seed=0)
    wide = np.concatenate([x, np.full((60, 1), 1e4, np.float32)], axis=1)
    plain = LinearHeads([Head(lr=0.01, weight_decay=0.1)], 3).fit(x, y, fit)
    other = LinearHeads([Head(lr=0.01, weight_decay=0.1)], 3).fit(wide, y, fit)
    moved = np.concatenate([x, np.full((60, 1), -5e4, np.float32)], axis=1)
    np.testing.assert_allclose(other.predict(moved), plain.predict(x), atol=1e-6)


def test_notes_tell_about_leaks_unknown_classes_and_edges():
    train = made(1, 60)
    result = LinearProbe(QUICK).evaluate(Given(train, train, seed=0))
    assert any("60 videos are in train and in test" in note for note in result.notes)
    test = with_labels(made(2, 60), np.where(np.arange(60) < 10, 77, made(2, 60).labels))
    result = LinearProbe(QUICK).evaluate(Given(train, test, seed=0))
    assert any("10 test videos are of classes" in note for note in result.notes)
    assert result.correct <= 50


def test_one_class_and_contradicting_labels_are_errors():
    one = with_labels(made(1, 30), np.zeros(30, int))
    with pytest.raises(FeatureError, match="one class only"):
        LinearProbe(QUICK).evaluate(Given(one, one, seed=0))
    twice = made(1, 30, clips=2)
    with pytest.raises(FeatureError, match="clips of the video '1-0' have different labels"):
        LinearProbe(QUICK).evaluate(Given(with_labels(twice, np.arange(60) % 3), twice, seed=0))


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"learning_rates": ()}, "learning_rates"),
        ({"held_out_share": 1.0}, "held_out_share=1.0 must lie between 0 and 1"),
        ({"epochs": 0}, "epochs=0"),
        ({"poolings": ()}, "poolings is empty"),
    ],
)
def test_settings_that_cannot_be_used(settings, text):
    with pytest.raises(ValueError, match=text):
        ProbeConfig(**settings)


@pytest.mark.parametrize(
    ("moments", "wanted"),
    [(1, ["mean", "clip"]), (2, ["mean", "mean_std", "clip", "concat_4"])],
)
def test_clips_of_one_moment_are_pooled_once(moments, wanted):
    """All poolings of one moment are that moment, some of them several times as wide."""
    frames = np.random.default_rng(0).normal(size=(40, moments, 3)).astype(np.float32)
    labels = np.arange(40) % 2
    columns = {"features": frames[:, 0], "frame_features": frames, "labels": labels}
    features = features_from_arrays(columns)
    config = ProbeConfig(poolings=("mean", "mean_std", "clip", "concat_4"), epochs=1)
    result = LinearProbe(config).evaluate(Given(train=features, test=features))
    assert list(dict.fromkeys(entry["pooling"] for entry in result.details["grid"])) == wanted
