"""How XLA compiles in tests: quickly rather than well."""

DEVICES = "--xla_force_host_platform_device_count"
#: Without its own emitters of fusions, a training step of the smallest R3D takes a quarter of the time to compile.
QUICKLY = "--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false"


def quick_xla(devices: int) -> str:
    """Returns XLA_FLAGS for a process with so many devices on its CPU."""
    return f"{DEVICES}={devices} {QUICKLY}"
