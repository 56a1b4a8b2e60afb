"""How XLA compiles in tests: quickly rather than well."""

DEVICES = "--xla_force_host_platform_device_count"
#: Without its own emitters of fusions, a training step of the smallest R3D takes a quarter of the time to compile.
QUICKLY = "--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false"
#: Devices that share busy cores may wait for each other for longer than the 40 s after which XLA ends the process.
PATIENTLY = "--xla_cpu_collective_call_terminate_timeout_seconds=600"


def quick_xla(devices: int) -> str:
    """Returns XLA_FLAGS for a process with so many devices on its CPU."""
    return f"{DEVICES}={devices} {QUICKLY} {PATIENTLY}"
