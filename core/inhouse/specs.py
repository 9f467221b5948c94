"""What a plugin declares: one frozen record per backend, which imports nothing until a recipe names it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar, Literal

from attrs import field, frozen, validators

API_VERSION = 1
"""The plugin interface of this core; a spec with another major number is reported and left out."""

Take = Literal["latest", "first", "all"]


@frozen
class NoOptions:
    """The options of a backend that has none."""


@frozen
class Input:
    """One artifact a step takes, passed by position in the order of ``consumes``.

    ``kind`` may end in ``*`` (``model/*``). Of several producers ahead of the step, ``take`` picks the
    latest, the first, or all of them (then the argument is a list). ``optional`` passes ``None`` if none.
    """

    kind: str
    take: Take = "latest"
    optional: bool = False

    def accepts(self, kind: str) -> bool:
        """Whether an artifact of ``kind`` fits this input."""
        return kind == self.kind or (self.kind.endswith("*") and kind.startswith(self.kind[:-1]))


@frozen
class Slot:
    """A service that a backend is given by name: ``vector_store = "hnswlib"`` beside ``use``.

    ``kind`` is a service kind (``vector_store``, ``embedder`` …); ``default`` is the backend used when
    the recipe names none; without a default the recipe has to.
    """

    name: str
    kind: str
    default: str | None = None


def _inputs(value: str | Input | Iterable[str | Input]) -> tuple[Input, ...]:
    many = [value] if isinstance(value, (str, Input)) else list(value)
    return tuple(Input(item) if isinstance(item, str) else item for item in many)


def _slots(value: Iterable[Slot]) -> tuple[Slot, ...]:  # a bare ``tuple`` tells mypy no element type
    return tuple(value)


def _features(value: Iterable[str]) -> frozenset[str]:
    return frozenset(value)


def _kinds(value: str | Iterable[str]) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else tuple(value)


@frozen(kw_only=True)
class Spec:
    """A backend: its name in recipes, and how to get and check it.

    ``factory`` is an import path ``package.module:Class``, imported on first use and called with an
    instance of ``options``. ``options`` is an attrs class: its fields are the recipe table, the ``--set``
    keys and the reference docs. Field metadata: ``help`` (one line), ``counts`` (``False`` keeps the
    field out of the fingerprint), ``service`` (the kind of service that the value names: it is given as in a
    :class:`Slot`; empty: none, ``auto``: the one that the quantize step names), ``names`` (of a quantizer: the kind
    of service that ``auto`` finds here). Fields typed ``Path`` are taken relative to the recipe, and their
    contents, not their names, count in the fingerprint. Bump ``version`` when output bytes change.
    ``target`` says that the output depends on the recipe's ``[target]`` table.
    """

    kind: ClassVar[str] = ""

    name: str = field(validator=validators.matches_re(r"[a-z0-9][a-z0-9_-]*"))
    summary: str
    factory: str = field(validator=validators.matches_re(r"[\w.]+:\w+"))
    options: type[Any] = NoOptions
    consumes: tuple[Input, ...] = field(default=(), converter=_inputs)
    produces: tuple[str, ...] = field(default=(), converter=_kinds)
    slots: tuple[Slot, ...] = field(default=(), converter=_slots)
    features: frozenset[str] = field(default=frozenset(), converter=_features)
    version: int = 1
    api: int = API_VERSION
    target: bool = False


class StageSpec(Spec):
    """A backend that does a step: it turns artifacts into artifacts."""


class SourceSpec(StageSpec):
    """Brings something in: a base model, training data, documents. See :class:`~inhouse.protocols.Source`."""

    kind = "source"


class TrainerSpec(StageSpec):
    """Changes weights. See :class:`~inhouse.protocols.Trainer`."""

    kind = "trainer"


class QuantizerSpec(StageSpec):
    """Makes a model smaller. See :class:`~inhouse.protocols.Quantizer`."""

    kind = "quantizer"


class IndexerSpec(StageSpec):
    """Makes documents searchable. See :class:`~inhouse.protocols.Indexer`."""

    kind = "indexer"


class EvaluatorSpec(StageSpec):
    """Measures what was made. See :class:`~inhouse.protocols.Evaluator`."""

    kind = "evaluator"


class PackagerSpec(StageSpec):
    """Puts together what gets deployed. See :class:`~inhouse.protocols.Packager`."""

    kind = "packager"


class RuntimeSpec(Spec):
    """Runs a model: ``consumes`` names the kinds it opens. See :class:`~inhouse.protocols.Runtime`."""

    kind = "runtime"


class EmbedderSpec(Spec):
    """Turns text into vectors. See :class:`~inhouse.protocols.Embedder`."""

    kind = "embedder"


class VectorStoreSpec(Spec):
    """Finds near vectors. See :class:`~inhouse.protocols.VectorStore`."""

    kind = "vector_store"


class RoundingSpec(Spec):
    """What a number format does to weights. See :class:`~inhouse.protocols.Rounding`."""

    kind = "rounding"


class ToolSpec(Spec):
    """Something an agent can call. See :class:`~inhouse.protocols.Tool`."""

    kind = "tool"


class AgentSpec(Spec):
    """Turns a question into an answer. See :class:`~inhouse.protocols.Agent`."""

    kind = "agent"


class ExecutorSpec(Spec):
    """Decides where a step runs. See :class:`~inhouse.protocols.Executor`."""

    kind = "executor"


class CommandSpec(Spec):
    """A command of the command line: ``factory`` names a ``click.Command``, which is imported when it is called."""

    kind = "command"


SPEC_TYPES: tuple[type[Spec], ...] = tuple(
    each for each in list(vars().values()) if isinstance(each, type) and issubclass(each, Spec) and each.kind
)
"""All kinds of backend; the hook of a kind is ``inhouse_<kind>s``."""
