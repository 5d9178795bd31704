"""Where training runs. The only place that names devices.

MirroredStrategy over every accelerator; one CPU replica where there is none; `replicas: n` in shop.yaml splits the CPU into n
logical devices, which trains for real on n replicas. `TF_CONFIG` makes it MultiWorkerMirroredStrategy.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any, Literal

from nightmarket import log as logs
from nightmarket.shop import set_environment

Precision = Literal["auto", "float32", "mixed_bfloat16", "mixed_float16"]
_LOG = logs.logger("learn")


def cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


_FEW_ROWS = 20_000


def tree_threads(rows: int, asked: int = 0) -> int:
    """Threads for trees of so many rows, 0 for all there are: on few rows they wait for each other longer than they work."""
    return 1 if rows <= _FEW_ROWS else asked


class DeviceError(RuntimeError):
    """The machine cannot give the replicas that shop.yaml asks for. The message says what it has and the remedy."""


@dataclass(frozen=True)
class Placement:
    """A strategy with the precision that suits its devices."""

    strategy: Any
    """tf.distribute.Strategy."""
    replicas: int
    precision: str
    """Keras dtype policy."""

    def describe(self) -> dict[str, Any]:
        return {"strategy": type(self.strategy).__name__, "replicas": self.replicas, "precision": self.precision}


def tensorflow() -> Any:
    """TensorFlow, imported quietly, with bit-equal reruns switched on. The first call decides for the process."""
    # set before the import: TensorFlow and Keras read them once
    set_environment(TF_CPP_MIN_LOG_LEVEL="3", KERAS_BACKEND="tensorflow")
    import tensorflow as tf

    tf.config.experimental.enable_op_determinism()
    return tf


def place(replicas: int = 0, precision: Precision = "auto") -> Placement:
    """The strategy for this machine. `replicas` 0: every accelerator, else one CPU replica; n: n devices.

    Raises DeviceError where n devices cannot be had.
    """
    tf = tensorflow()
    workers = tf.distribute.cluster_resolver.TFConfigClusterResolver().cluster_spec().as_dict().get("worker", [])
    if workers:
        strategy = tf.distribute.MultiWorkerMirroredStrategy()
        _LOG.info(logs.said("placed", strategy="MultiWorkerMirroredStrategy", workers=len(workers)))
        return Placement(strategy, strategy.num_replicas_in_sync, _suited(tf, precision))
    accelerators = tf.config.list_physical_devices("GPU")
    for device in accelerators:
        try:
            tf.config.experimental.set_memory_growth(device, True)  # others may train on the same card
        except RuntimeError as started:  # fixed once the device is in use, with whatever was chosen then
            _LOG.debug(logs.said("memory_growth_kept", device=device.name, why=str(started)))
    if accelerators:
        if replicas > len(accelerators):
            raise DeviceError(f"model.replicas is {replicas}, this machine has {len(accelerators)} accelerators; ask for fewer, or 0")
        chosen = [f"GPU:{n}" for n in range(replicas or len(accelerators))]
    else:
        chosen = [f"CPU:{n}" for n in range(_logical_cpus(tf, replicas or 1))]
    strategy = tf.distribute.MirroredStrategy(chosen)
    return Placement(strategy, strategy.num_replicas_in_sync, _suited(tf, precision))


def _logical_cpus(tf: Any, wanted: int) -> int:
    if wanted > 1:
        cpu = tf.config.list_physical_devices("CPU")[0]
        try:
            tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * wanted)
        except (RuntimeError, ValueError):  # devices are fixed once TensorFlow has started in this process
            have = len(tf.config.list_logical_devices("CPU"))
            if have < wanted:
                raise DeviceError(
                    f"model.replicas is {wanted}, but TensorFlow already runs with {have} CPU devices here; use a fresh process"
                ) from None
    return wanted


def _suited(tf: Any, precision: Precision) -> str:
    """The dtype policy: 'auto' takes half precision only where the hardware multiplies it faster than float32.

    NVIDIA tensor cores do bfloat16 from compute capability 8.0 and float16 from 7.0; CPUs gain nothing.
    """
    if precision != "auto":
        return precision
    capabilities = [
        tf.config.experimental.get_device_details(d).get("compute_capability") for d in tf.config.list_physical_devices("GPU")
    ]
    if not capabilities or any(c is None for c in capabilities):
        return "float32"
    if min(capabilities) >= (8, 0):
        return "mixed_bfloat16"
    return "mixed_float16" if min(capabilities) >= (7, 0) else "float32"
