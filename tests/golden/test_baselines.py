"""TCC and TCN, CARL's baselines, against the numbers of the reference code."""

import pytest
import torch

from video_ssl.objectives.shared.frame_pairs import Views
from video_ssl.objectives.tcc.config import Config
from video_ssl.objectives.tcc.objective import cycle_back_loss
from video_ssl.objectives.tcn.objective import npairs_loss


def check(golden, name, stored, loss_of):
    """Loss and gradient in float32, the loss in float64."""
    embeddings = stored.clone().requires_grad_()
    loss = loss_of(embeddings)
    loss.backward()
    golden.check(f"{name}/loss", loss)
    golden.check(f"{name}/grad_embs", embeddings.grad)
    golden.check(f"f64/{name}/loss", loss_of(stored.double()))


@pytest.mark.golden("tcc/loss")
def test_tcc(golden):
    steps, lengths = golden.tensor("steps")[:, None], golden.tensor("seq_lens")
    for name, case in golden.cases.items():
        config = Config(
            loss=case["loss"],
            similarity=case["similarity"],
            temperature=case["temperature"],
            label_smoothing=case["label_smoothing"],
            variance_weight=case["variance_weight"],
            normalize_indices=case["normalize_indices"],
            unit_length=case["unit_length"],
        )

        def loss_of(embeddings, config=config):
            valid = torch.ones_like(steps, dtype=torch.bool)
            no_label = torch.full_like(lengths, -1)
            views = Views.of(embeddings[:, None], steps, lengths, valid, no_label)
            return cycle_back_loss(views, config)[0]

        stored = golden.tensor("embs_unit" if case["unit_length"] else "embs")
        check(golden, name, stored, loss_of)


@pytest.mark.golden("tcn/loss")
def test_tcn(golden):
    for name, case in golden.cases.items():

        def loss_of(embeddings, case=case):
            settings = {"temperature": case["temperature"], "norm_penalty": case["reg_lambda"]}
            return npairs_loss(embeddings, **settings)[0]

        check(golden, name, golden.tensor(f"{name}/embs"), loss_of)
