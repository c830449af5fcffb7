"""Operations that are worth more than one implementation: a readable reference and a faster form of the same numbers."""
