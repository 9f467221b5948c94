.PHONY: demo test setup lint types format bench-kernel bench-train bench-quantize bench-knowledge clean
BIN := .venv/bin
RECIPE := contrib/recipes/service-desk/recipe.toml
QUESTION := "Could you tell me whether order 65731 is on its way, please?"

demo: setup  ## the main job: a raw model becomes a deployed specialist
	@$(BIN)/inhouse run $(RECIPE)
	@echo
	@$(BIN)/inhouse report
	@echo
	@echo '$$ inhouse ask '$(QUESTION)
	@$(BIN)/inhouse ask $(QUESTION)
	@echo
	@echo 'Ask it yourself:   $(BIN)/inhouse ask "..."    or   $(BIN)/inhouse chat'
	@echo 'Another quantizer: $(BIN)/inhouse run $(RECIPE) --set quantize.use=bitsandbytes --accept fit'

# Two processes on two cores: threads that wait must not spin, and tests of a file share what they set up.
test: setup  ## all tests
	@OMP_WAIT_POLICY=passive $(BIN)/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder

setup:
	@contrib/dev/setup.sh

lint: setup
	@$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/lint-imports

types: setup
	@$(BIN)/mypy core && for each in plugins/*/; do $(BIN)/mypy "$$each/src" || exit 1; done

format: setup
	@$(BIN)/ruff check --fix-only . ; $(BIN)/ruff format .

bench-kernel: setup
	@$(BIN)/python tests/bench/kernel.py

bench-train: setup  ## ARGS="--only lora --repeats 5"
	@contrib/dev/bench.sh
	@$(BIN)/python tests/bench/train.py $(ARGS)

bench-quantize: setup  ## ARGS="--only imatrix"
	@contrib/dev/bench.sh
	@contrib/dev/bench-llama.sh
	@$(BIN)/python tests/bench/quantize.py $(ARGS)

bench-knowledge: setup  ## ARGS="--only embedding"
	@contrib/dev/bench.sh
	@$(BIN)/python tests/bench/knowledge.py $(ARGS)

clean:
	rm -rf .venv .venv-bench .wheelhouse .inhouse build
