"""The configuration: one YAML file in, frozen settings out, every fault with its key path and line."""
