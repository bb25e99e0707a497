"""The engine: composes slide, plan, infer and output into a run; the only room that knows them all."""
