"""TCC and TCN, CARL's baselines, against the numbers of the reference code: every array of `given` in every file."""

import fnmatch
import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from video_ssl.objectives.frame_pairs import Views
from video_ssl.objectives.tcc.config import Config
from video_ssl.objectives.tcc.objective import cycle_back_loss
from video_ssl.objectives.tcn.objective import npairs_loss

ROOT = Path(os.environ.get("VIDEO_SSL_GOLDEN", Path(__file__).parent / "data"))


class Case:
    """A golden file: its settings, its arrays, and what has been compared."""

    def __init__(self, path):
        self.arrays = np.load(path, allow_pickle=False)
        self.settings = json.loads(str(self.arrays["settings_json"]))
        self.left = set(self.settings["given"])

    def __getitem__(self, name):
        array = self.arrays[name]
        return array if array.dtype.kind == "U" else torch.from_numpy(np.array(array))

    def params(self):
        return {k[6:]: self[k] for k in self.arrays.files if k.startswith("param/")}

    def expect(self, name, found):
        """Compares an array that is given; one that is not given has nothing to be compared with."""
        if name not in self.settings["given"]:
            return
        self.left.discard(name)
        bound = next(b for p, b in self.settings["tolerance"].items() if fnmatch.fnmatch(name, p))
        expected = np.asarray(self.arrays[name])
        found = np.asarray(found.detach() if torch.is_tensor(found) else found)
        if bound.get("exact"):
            np.testing.assert_array_equal(found, expected, err_msg=name)
            return
        atol = bound.get("atol", 0) + bound.get("of_max", 0) * np.abs(expected).max(initial=0)
        np.testing.assert_allclose(
            found, expected, rtol=bound.get("rtol", 0), atol=atol, err_msg=name
        )


def cases(kind):
    for path in sorted(ROOT.rglob("*.npz")):
        with np.load(path, allow_pickle=False) as data:
            stored = json.loads(str(data["settings_json"])) if "settings_json" in data else {}
        if stored.get("kind") == kind:
            yield pytest.param(path, id=f"{path.parent.name}/{path.stem}")


@pytest.fixture
def case(request):
    found = Case(request.param)
    yield found
    assert not found.left, f"given, but not compared: {sorted(found.left)}"


def each(kind):
    return pytest.mark.parametrize("case", list(cases(kind)), indirect=True)


def tcc_loss(embeddings, case, settings):
    config = Config(
        loss=settings["loss"],
        similarity=settings["similarity"],
        temperature=settings["temperature"],
        label_smoothing=settings["label_smoothing"],
        variance_weight=settings["variance_weight"],
        normalize_indices=settings["normalize_indices"],
        unit_length=settings["unit_length"],
    )
    steps, count = case["steps"], len(embeddings)
    views = Views.of(
        embeddings[:, None],
        steps[:, None],
        case["seq_lens"],
        torch.ones_like(steps[:, None], dtype=torch.bool),
        torch.full((count,), -1),
    )
    return cycle_back_loss(views, config)[0]


def expect(case, name, stored, loss_of):
    """Loss and gradient in float32, the loss in float64."""
    embeddings = stored.clone().requires_grad_()
    loss = loss_of(embeddings)
    loss.backward()
    case.expect(f"{name}/loss", loss)
    case.expect(f"{name}/grad_embs", embeddings.grad)
    case.expect(f"f64/{name}/loss", loss_of(stored.double()))


@each("tcc/loss")
def test_tcc(case):
    for name, settings in case.settings["cases"].items():
        stored = case["embs_unit" if settings["unit_length"] else "embs"]
        expect(case, name, stored, lambda x, settings=settings: tcc_loss(x, case, settings))


@each("tcn/loss")
def test_tcn(case):
    for name, settings in case.settings["cases"].items():
        expect(
            case,
            name,
            case[f"{name}/embs"],
            lambda x, settings=settings: npairs_loss(
                x, temperature=settings["temperature"], norm_penalty=settings["reg_lambda"]
            )[0],
        )
