"""The toy's weights between the frameworks: a kernel of flax is a weight of torch, turned."""

import numpy as np


def to_torch_state(variables):
    linear = variables["params"]["linear"]
    weight = np.ascontiguousarray(np.asarray(linear["kernel"]).T)
    return {"linear.weight": weight, "linear.bias": np.array(linear["bias"])}


def to_flax_variables(state):
    kernel = np.ascontiguousarray(state["linear.weight"].T)
    return {"params": {"linear": {"kernel": kernel, "bias": state["linear.bias"]}}}
