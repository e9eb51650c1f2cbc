"""Callbacks for libraries that train: what a monitor measures is logged, followed and resumed there."""
