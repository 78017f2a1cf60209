"""Words from swipes over a keyboard: the trajectory of a finger in, the likeliest words out.

``keyboard`` and ``synthetic`` make data, ``preprocessing`` makes features, ``model`` holds the network and ``family``
is what the rest of the platform sees. Only the last two need torch.
"""
