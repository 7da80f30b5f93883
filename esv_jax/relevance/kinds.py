"""What kinds of primitives there are, seen from the relevance that passes through them."""

from __future__ import annotations

PRODUCTS = {"conv_general_dilated": "conv", "dot_general": "dense"}
"""Linear in each of two operands: a layer, where one of them is a weight."""

SUMS = {"reduce_sum", "reduce_window_sum", "cumsum"}
"""Sums of their one operand: relevance goes to the addends by their share."""

MOVES = {
    *("reshape", "transpose", "squeeze", "expand_dims", "broadcast_in_dim", "rev", "slice"),
    *("dynamic_slice", "gather", "concatenate", "pad", "copy", "copy_p", "convert_element_type"),
    *("reduce_precision", "split", "real", "dynamic_update_slice", "optimization_barrier"),
}
"""Each output is a copy of one input, or nothing: relevance goes back where the copy came from."""

KEEPS_ORDER = {"reshape", "transpose", "squeeze", "expand_dims", "convert_element_type", "copy"}
"""Moves of a layer's outputs that leave each output one number of one place."""

ELEMENTWISE = {
    *("add", "sub", "mul", "div", "neg", "max", "min", "clamp", "abs", "sign", "square"),
    *("integer_pow", "pow", "sqrt", "rsqrt", "cbrt", "exp", "exp2", "expm1", "log", "log1p"),
    *("tanh", "tan", "sin", "cos", "sinh", "cosh", "asin", "acos", "atan", "atan2", "logistic"),
    *("erf", "erfc", "erf_inv", "asinh", "acosh", "atanh", "floor", "ceil", "round", "rem"),
    *("is_finite", "select_n", "stop_gradient", "nextafter", "and", "or", "not", "xor"),
    *("gt", "ge", "lt", "le", "eq", "ne", "convert_element_type", "copy", "reduce_precision"),
}
"""Functions of the numbers at one place. Of one value alone they are an activation."""

WINNERS = {
    *("max", "min", "reduce_max", "reduce_min", "reduce_window_max", "reduce_window_min"),
    *("sort", "top_k", "select_n", "select_and_gather_add", "cummax", "cummin"),
}
"""Each output is one of the inputs, which one depends on them: the winner takes all."""
