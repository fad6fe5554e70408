# Thin recipes; the work is in `cargo xtask`.

# Everything that continuous integration runs.
ci:
    bash .ci/run

# Install what tests need and run them all.
test *arguments:
    cargo xtask test -- {{arguments}}

# Formatting, clippy, dependency rules.
lint:
    cargo xtask lint

# Regenerate what is generated from code.
generate:
    cargo xtask drift --write

# A Kubernetes control plane to try things on; Ctrl-C ends it.
cluster *arguments:
    cargo xtask cluster up {{arguments}}

# Measure (release build).
bench *arguments:
    cargo xtask bench {{arguments}}

# The story in a minute.
demo:
    cargo run --release -p countersign -- demo
