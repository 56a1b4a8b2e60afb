"""The smallest network there can be, in both frameworks: what a new one must bring, and nothing else."""

from video_ssl.models import Network

NETWORK = Network(
    config="toy_network.config:ToyConfig",
    torch="toy_network.network:Toy",
    flax="toy_network.network_flax:Toy",
    bridge="toy_network.bridge",
    published={"toy": "toy_network.weights"},
)
