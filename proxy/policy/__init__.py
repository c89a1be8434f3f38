"""Pure decisions on plain values: what an authority is, and which route it takes. Does no I/O."""
