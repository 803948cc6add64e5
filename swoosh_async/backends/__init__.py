"""Where bytes are kept: the contract, and the homes that this package brings for it."""
