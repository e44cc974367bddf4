"""Running an algorithm: the loop, its devices, and the folder that keeps what it measured."""
