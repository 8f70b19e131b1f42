# raftlab. `make help` lists the targets; .ci/run calls `make check`.

GO       ?= go
TOOLS    := $(CURDIR)/.tools/bin
BIN      := $(CURDIR)/bin
BUF_VERSION      := v1.75.0
GOLANGCI_VERSION := v2.15.0

COMMIT := $(shell git rev-parse --short=12 HEAD 2>/dev/null || echo unknown)
DIRTY  := $(shell if git rev-parse HEAD >/dev/null 2>&1; then test -z "$$(git status --porcelain 2>/dev/null)" && echo false || echo true; else echo unknown; fi)
RAFTKV_FLAGS    := -X main.commit=$(COMMIT) -X main.dirty=$(DIRTY)

# For `make cluster`.
BASE_PORT ?= 21001
FLAGS     ?=

.DEFAULT_GOAL := help
.PHONY: help build test race-test check lint fmt proto check-generate bench bench-chunks bench-smoke aa detect-slowdown cluster scenario soak fuzz-seeds clean tools etcd

help: ## list the targets
	@awk 'BEGIN {FS = ":.*## "} /^[a-z-]+:.*## / {printf "  %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

build: ## build raftkv and raftbench into bin/
	@mkdir -p $(BIN)
	$(GO) build -trimpath -ldflags '$(RAFTKV_FLAGS)' -o $(BIN)/ ./cmd/raftkv ./cmd/raftbench

test: build etcd ## run all tests, with the race detector and in random order
	$(GO) test -race -shuffle=on -timeout 15m ./...

lint: $(TOOLS)/golangci-lint-$(GOLANGCI_VERSION) $(TOOLS)/buf-$(BUF_VERSION) ## run the linters
	$(TOOLS)/golangci-lint-$(GOLANGCI_VERSION) run ./...
	cd proto && $(TOOLS)/buf-$(BUF_VERSION) lint
	@diff=$$($(GO) fix -diff ./... 2>&1); if [ -n "$$diff" ]; then echo "$$diff"; echo "go fix would change the above"; exit 1; fi

fmt: $(TOOLS)/golangci-lint-$(GOLANGCI_VERSION) ## format the code
	$(TOOLS)/golangci-lint-$(GOLANGCI_VERSION) fmt ./...

proto: $(TOOLS)/buf-$(BUF_VERSION) ## generate code from the .proto files
	cd proto && $(TOOLS)/buf-$(BUF_VERSION) generate

check-generate: $(TOOLS)/buf-$(BUF_VERSION) ## check that generated code and go.mod are up to date
	@rm -rf .tools/generated && mkdir -p .tools/generated
	@cd proto && $(TOOLS)/buf-$(BUF_VERSION) generate -o $(CURDIR)/.tools/generated
	@for f in $$(cd .tools/generated && find . -name '*.go'); do cmp "proto/$$f" ".tools/generated/$$f" || { echo "proto/$$f is stale: make proto"; exit 1; }; done
	@test "$$(find proto -name '*.pb.go' | wc -l)" = "$$(find .tools/generated -name '*.pb.go' | wc -l)" || { echo "proto/ holds generated files without a source"; exit 1; }
	@rm -rf .tools/generated
	$(GO) mod tidy -diff
	$(GO) mod verify

check: build lint check-generate test scenario fuzz-seeds bench-smoke ## everything CI runs
	@echo "check: all passed"

fuzz-seeds: ## run each fuzz target for a few seconds
	./.ci/fuzz-seeds

scenario: build ## three processes through the whole sequence, each command with its answer
	./.ci/scenario $(BIN)/raftkv

soak: build ## a durable cluster killed 20 times, a follower stopped for 60 s, 1 GiB in large values
	RAFTLAB_KILLS=20 RAFTLAB_PAUSE=60s RAFTLAB_BULK=1GiB $(GO) test ./bench/cluster -v -count=1 -timeout 20m \
		-run 'TestNothingDurableIsLost|TestStoppedFollower|TestBulkDisturbsNoElection'

bench: build ## measure: experiments quick and chunk-size, about 4 minutes and a half
	@echo "Time budget: quick at most 150 s, chunk-size at most 120 s."
	$(BIN)/raftbench run quick
	$(BIN)/raftbench run chunk-size
	@$(BIN)/raftbench index

bench-chunks: build ## measure chunking strategies and sizes only
	$(BIN)/raftbench run chunk-size

bench-smoke: build ## a few seconds of the main job, checked for operations, errors and equal counts
	$(GO) test -count=1 -run TestSmoke -v ./cmd/raftbench

aa: ## 20 repetitions of an A/A pair: how often noise looks like a difference, 2 minutes
	RAFTLAB_AA=20 $(GO) test -count=1 -v -timeout 15m -run TestAARepeated ./cmd/raftbench

detect-slowdown: ## a build made 10 % slower is found, the same build is not, 5 minutes
	RAFTLAB_DETECT=20 $(GO) test -count=1 -v -timeout 15m -run TestSlowdownIsFound ./cmd/raftbench

cluster: build ## three local processes, initialised, until Ctrl-C (FLAGS=..., BASE_PORT=...)
	./.ci/cluster $(BIN)/raftkv $(BASE_PORT) $(FLAGS)

clean: ## remove what was built (runs in profiles/ stay)
	rm -rf bin .tools/generated

# About a minute the first time; from then on it is there. Without it the tests that
# drive it say so and are skipped.
etcd: ## build the etcd that tests of target etcd drive, once, into .tools/
	@$(MAKE) --no-print-directory $(TOOLS)/etcd || echo "etcd could not be built: tests that drive it are skipped"

$(TOOLS)/etcd: .ci/etcd/go.mod .ci/etcd/go.sum
	@mkdir -p $(TOOLS)
	CGO_ENABLED=0 $(GO) build -C .ci/etcd -mod=readonly -trimpath -o $@ go.etcd.io/etcd/server/v3

tools: $(TOOLS)/buf-$(BUF_VERSION) $(TOOLS)/golangci-lint-$(GOLANGCI_VERSION) ## install the pinned tools into .tools/

$(TOOLS)/buf-$(BUF_VERSION):
	@mkdir -p $(TOOLS)
	GOBIN=$(TOOLS) GOFLAGS= $(GO) install github.com/bufbuild/buf/cmd/buf@$(BUF_VERSION)
	mv $(TOOLS)/buf $@

$(TOOLS)/golangci-lint-$(GOLANGCI_VERSION):
	@mkdir -p $(TOOLS)
	GOBIN=$(TOOLS) GOFLAGS= $(GO) install github.com/golangci/golangci-lint/v2/cmd/golangci-lint@$(GOLANGCI_VERSION)
	mv $(TOOLS)/golangci-lint $@
