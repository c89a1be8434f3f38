"""Tokens that replicas share, so that a fleet asks the identity platform as often as one replica does.

    shared_token    what one token's flight does first: look, adopt, lock, and only then ask the platform
    sealing         names and sealed values: without a key of ours nothing there can be read, forged or moved
    availability    shared, or each on its own, since when and why
    redis_store     the few commands that Redis is sent
    building        from settings to all of this

Client-credentials tokens do not revoke one another, so two replicas that ask at a time do no harm: nothing here is needed for
correctness. All is a matter of durations; no two clocks are ever compared.
"""
