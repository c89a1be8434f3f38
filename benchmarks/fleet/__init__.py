"""Thousands of replicas, simulated: the product's own token machinery in virtual time, against a model of the platform.

    model     the platform, the shared store, and time
    stories   what happens to a fleet, and what is counted
    report    the table and the picture
    __main__  `make simulate-fleet`

What is real: `identity.source`, `identity.cache`, `identity.credential`, the parsing of answers, and all of `identity.sharing` but
Redis itself. What is a model: how the platform answers and throttles, how long that takes, and when replicas start and end.
"""
