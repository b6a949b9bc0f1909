"""The options of sessions and runs, by onnxruntime's names. What has no meaning here is taken and changes nothing, as its own text says."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum

from preimage.errors import OptionError
from preimage.settings import check_accuracy

__all__ = ["ExecutionMode", "GraphOptimizationLevel", "RunOptions", "SessionOptions"]


class GraphOptimizationLevel(IntEnum):
    """How far a graph is rewritten: not at all (ORT_DISABLE_ALL), or by all passes (every other level)."""

    ORT_DISABLE_ALL = 0
    ORT_ENABLE_BASIC = 1
    ORT_ENABLE_EXTENDED = 2
    ORT_ENABLE_LAYOUT = 3
    ORT_ENABLE_ALL = 99


class ExecutionMode(IntEnum):
    """Nodes run one after another in either mode; each of them uses the threads."""

    ORT_SEQUENTIAL = 0
    ORT_PARALLEL = 1


@dataclass
class SessionOptions:
    """What a session is made with.

    intra_op_num_threads: threads of a run; 0: as many as the process may use. graph_optimization_level: see there. accuracy: of convolutions,
    "exact" or "fast" (see `preimage.conv`); None leaves it to the setting `preimage.config` (onnxruntime has no such option). The
    others are taken so that
    scripts run, and change nothing: results have the same bits for any number of threads, and memory is planned by itself.

    Raises: OptionError for a number of threads below 0, and for an accuracy that is none.
    """

    intra_op_num_threads: int = 0
    inter_op_num_threads: int = 0
    graph_optimization_level: GraphOptimizationLevel = GraphOptimizationLevel.ORT_ENABLE_ALL
    execution_mode: ExecutionMode = ExecutionMode.ORT_SEQUENTIAL
    enable_mem_pattern: bool = True
    enable_mem_reuse: bool = True
    enable_cpu_mem_arena: bool = True
    enable_profiling: bool = False
    use_deterministic_compute: bool = True
    log_severity_level: int = -1
    log_verbosity_level: int = 0
    logid: str = ""
    optimized_model_filepath: str = ""
    accuracy: str | None = None
    _entries: dict[str, str] = field(default_factory=dict)
    _free: dict[str, int] = field(default_factory=dict)

    def __setattr__(self, name: str, value: object) -> None:
        if name not in self.__dataclass_fields__:
            raise OptionError(
                f"SessionOptions has no {name!r}; it has {', '.join(k for k in self.__dataclass_fields__ if k[0] != '_')}"
            )
        if name.endswith("_num_threads") and (isinstance(value, bool) or not isinstance(value, int) or value < 0):
            raise OptionError(f"{name} must be a number of threads, or 0 for all, got {value!r}")
        if name == "accuracy" and value is not None:
            check_accuracy(value)
        object.__setattr__(self, name, value)

    def add_session_config_entry(self, key: str, value: str) -> None:
        """Keep an entry; none changes anything."""
        self._entries[key] = value

    def get_session_config_entry(self, key: str) -> str:
        """An entry. Raises: OptionError where there is none."""
        if key not in self._entries:
            raise OptionError(f"there is no session config entry {key!r}; there are {sorted(self._entries) or 'none'}")
        return self._entries[key]

    def add_free_dimension_override_by_name(self, name: str, size: int) -> None:
        """Fix the open size of this name, of all inputs. Raises: OptionError for what is no size."""
        if isinstance(size, bool) or not isinstance(size, int) or size < 0:
            raise OptionError(f"the size of {name!r} must be a number of at least 0, got {size!r}")
        self._free[name] = size

    @property
    def free_sizes(self) -> dict[str, int]:
        """The open sizes that were fixed, by name."""
        return dict(self._free)


@dataclass
class RunOptions:
    """What a run is made with; none of it changes anything."""

    log_severity_level: int = -1
    log_verbosity_level: int = 0
    logid: str = ""
    terminate: bool = False
    only_execute_path_to_fetches: bool = False

    def add_run_config_entry(self, key: str, value: str) -> None:
        """Taken, and changes nothing."""
