"""From a request to token ids: the model's template, its vocabulary, exactly one BOS."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from inhouse.errors import DataError, RecipeError
from inhouse_llamacpp.native import Model
from inhouse_llamacpp.template import ChatTemplate


class Prompts:
    """Makes prompts for one model of ``context`` tokens."""

    def __init__(self, model: Model, context: int) -> None:
        self._model = model
        self._context = context
        self._template: ChatTemplate | None = None

    def render(
        self, messages: Sequence[Mapping[str, str]], add_generation_prompt: bool, tools: Sequence[Any] = ()
    ) -> str:
        """The chat as text. Raises ``DataError`` without a usable template."""
        if self._template is None:
            source = self._model.template()
            if source is None:
                raise DataError("the model has no chat template", hint="ask with a plain prompt")
            model = self._model
            self._template = ChatTemplate(source, bos=model.token_text(model.bos), eos=model.token_text(model.eos))
        return self._template.render(messages, add_generation_prompt=add_generation_prompt, tools=tools)

    def tokens(self, request: Mapping[str, Any]) -> list[int]:
        """The prompt's ids. Raises ``RecipeError`` when they leave no room for an answer."""
        text = request["prompt"]
        if text is None:
            text = self.render(request["messages"], True)
        ids = self._one_bos(self._model.tokenize(text))
        if len(ids) >= self._context:
            raise RecipeError(
                f"the prompt has {len(ids)} tokens, the context only {self._context}",
                hint="a larger target.context, or a shorter question",
            )
        return ids

    def _one_bos(self, ids: list[int]) -> list[int]:
        """Models that were trained with a BOS get it once, whether or not their template writes it too."""
        model = self._model
        if model.add_bos and model.bos >= 0:
            while ids and ids[0] == model.bos:
                ids = ids[1:]
            return [model.bos, *ids]
        if not ids:  # there has to be something to go on from
            return [model.bos if model.bos >= 0 else model.eos]
        return ids
