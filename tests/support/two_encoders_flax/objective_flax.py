from __future__ import annotations

from typing import Any

import jax

from video_ssl.objectives.cvrl.objective_flax import Objective as CVRL
from video_ssl.objectives.shared.flax_objective import StepOutput, TrainedEncoder, Tree, part_of

CLIPS = 3


class Objective(CVRL):
    def init(self, seed: int) -> dict[str, Any]:
        variables = super().init(seed)
        return {
            **variables,
            "average": jax.tree.map(lambda x: x * 1, part_of("encoder")(variables)),
        }

    def forward(self, variables: Tree, batch: Tree, key: Any) -> tuple[StepOutput, Tree]:
        own = {name: tree for name, tree in variables.items() if name != "average"}
        output, changed = super().forward(own, batch, key)
        now = part_of("encoder")({**own, **changed})
        average = jax.tree.map(lambda a, b: (a + b) / 2, variables["average"], now)
        return output._replace(clips=CLIPS), {**changed, "average": average}

    def encoders(self) -> dict[str, TrainedEncoder]:
        trained = super().encoders()["encoder"]
        average = trained._replace(variables=lambda variables: variables["average"])
        return {"student": trained, "teacher": average}
