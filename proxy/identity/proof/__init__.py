"""The ways to prove who we are to a token endpoint, each a small class behind `proxy.identity.proof.interface`."""
