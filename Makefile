# make repro   set up, then run the whole pipeline: videos in renders/
# make demo    set up, then render with the weights in demo/, without training: videos in demo/out/renders
# make play    set up, then serve the weights in demo/control as a page to play, beside the true simulator
# make page    set up, then write them as one page that dreams without a network: demo/out/play.html
#              (make play WEIGHTS=demo: those that a GPU made; page likewise)
# make test    set up, then run the tests
# make quick   set up, then those tests that are quick: at most three minutes on two cores
# make lint    formatting, lint, types and import floors
# make docs    the documents and the library's docstrings as a site: site/index.html
# make dag     the picture of the pipeline

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
TORCH := $(shell sed -n 's/^\(torch==[^ ;]*\).*/\1/p' requirements.lock)

# DVC runs `python -m stages.x`: the environment's python must come first.
export PATH := $(CURDIR)/$(BIN):$(PATH)

# On Linux the default torch brings CUDA, gigabytes of it. Without an NVIDIA driver the CPU build is enough.
ifeq ($(shell uname -s)$(shell command -v nvidia-smi),Linux)
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu
endif

# A download that breaks off is tried once more; pip says at length why it failed, and what had come is in its cache.
fetch = @$(BIN)/pip install --quiet $(1) || { echo 'note: pip failed; once more' && $(BIN)/pip install --quiet $(1); } \
	|| { echo 'oniris: error: the packages could not be installed, see above; the same command goes on'; exit 1; }

.PHONY: repro demo play page test lint dag setup clean git

repro: git
	$(BIN)/dvc repro
	@$(BIN)/dvc exp save --quiet --force --name repro 2>/dev/null || \
		echo "note: not kept as experiment 'repro'; experiments need a commit in git, and git must know you: git config user.name, user.email"
	@echo "Done: open reports/render/index.html; pictures and videos are in renders/, measures in reports/render/metrics.json"

DEMO := --params demo/params.yaml
DEMO_OUT := demo/out

demo: $(READY)
	$(BIN)/python -m stages.collect $(DEMO) --out $(DEMO_OUT)/episodes.zarr
	$(BIN)/python -m stages.encode $(DEMO) --episode-store $(DEMO_OUT)/episodes.zarr --vae demo/vae \
		--out $(DEMO_OUT)/latents.zarr --report $(DEMO_OUT)/encode
	$(BIN)/python -m stages.render $(DEMO) --episode-store $(DEMO_OUT)/episodes.zarr --latent-store $(DEMO_OUT)/latents.zarr \
		--vae demo/vae --world demo/world --out $(DEMO_OUT)/renders --report $(DEMO_OUT)/report

WEIGHTS ?= demo/control
PLAYED = --params $(WEIGHTS)/params.yaml --vae $(WEIGHTS)/vae --world $(WEIGHTS)/world --starts $(WEIGHTS)/starts.npz

play: $(READY)
	@$(BIN)/python -m stages.play $(PLAYED) $(ARGS)

# npm fetches onnxruntime-web; without npm: make page ARGS="--runtime onnxruntime-web-1.30.0.tgz".
page: $(READY)
	rm -rf $(DEMO_OUT)/export $(DEMO_OUT)/play.html
	$(BIN)/python -m stages.export $(PLAYED) --half \
		--out $(DEMO_OUT)/export --html $(DEMO_OUT)/play.html $(ARGS)

# Two processes with a thread each: networks as small as those of the tests gain nothing from a second thread.
test: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder $(ARGS)

# What is wrong with most changes is seen here: the house, command lines, stores, and that all forms of a network give the same numbers.
QUICK := project switches data scores averages vae video_attention world sampling

.PHONY: quick
quick: $(READY)
	$(BIN)/python -m pytest -m "not pipeline" $(QUICK:%=tests/test_%.py) $(ARGS)

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/pip check

.PHONY: docs
# From nothing, as only a page that is read is looked through for dead links.
docs: $(READY)
	rm -rf site docs/api
	$(BIN)/python -m sphinx --quiet --fail-on-warning --keep-going -c docs . site
	@echo "Done: open site/index.html"

dag: git
	$(BIN)/dvc dag

# An archive of the project has no git, and dvc must be told so; or that there is one now.
git: $(READY)
	@if ! git rev-parse --git-dir >/dev/null 2>&1; then $(BIN)/dvc config --local core.no_scm true; \
	elif grep -qs no_scm .dvc/config.local; then $(BIN)/dvc config --local --unset core.no_scm; fi

setup: $(READY)

$(READY): requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo 'oniris: error: Python 3.11 or later is needed; name one with make PYTHON=python3.12'; exit 2; }
	$(PYTHON) -m venv $(VENV)
	# Alone: what torch needs is in the lock file, and need not be looked for in a second index.
	$(call fetch,--no-deps --retries 2 $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) '$(TORCH)')
	$(call fetch,--no-deps -r requirements.lock)
	# Twice, because that is faster: what is there needs no resolving. Other platforms, and CUDA, bring a few packages more.
	$(call fetch,-r requirements.lock)
	touch $@

clean:
	rm -rf $(VENV) runs site docs/api
