"""The parts that every task is made of: its specification, its face towards the engine, inputs, results, exported files."""
