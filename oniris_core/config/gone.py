"""Parameters that there are no more, and what is there instead: whoever still sets one is told."""

_WHOLE_MODEL = "generation follows the whole model, without guidance: leave it out"

GONE: dict[tuple[str, str], str] = {
    ("collect", "recording_action_leads_to"): "it is recording_action_lag now, in frames (same_frame is -1)",
    ("train", "forecast_frames"): "it is forecast_ages now, a list: how many latent frames ago",
    ("train", "frame_only_share"): "there is no model without a past any more: leave it out",
    ("train", "action_drop_share"): "there is no model without actions any more: leave it out",
    (
        "train",
        "sigma_normalization",
    ): "a frame's loss is always divided by what is usual at its noise level: leave it out",
    ("train", "precondition"): "a frame is always denoised around its forecast: leave it out",
    ("train", "forecast_attention"): "the forecast always sees the whole of the last frame: leave it out",
    ("train", "gate_start"): "a gate on the past always starts at 0.6: leave it out",
    ("train", "targets"): "all frames of a clip are learned from: leave it out",
    ("render", "action_probes"): "it is probes now",
    ("render", "sample_contexts"): "every context is continued samples times now: leave it out",
    ("render", "temperature"): "frames are drawn as the model was trained to: leave it out",
    ("render", "still_change"): "nothing is held still any more: leave it out",
    ("render", "resamples"): "intervals come from 1000 resamples: leave it out",
    ("render", "upscale"): "pictures are magnified to about 256 pixels: leave it out",
    ("render", "churn"): "the solver is deterministic: leave it out",
    ("render", "guidance"): _WHOLE_MODEL,
    ("render", "action_guidance"): _WHOLE_MODEL,
    ("render", "autoguidance"): _WHOLE_MODEL,
    ("render", "autoguidance_share"): _WHOLE_MODEL,
}
"""By section and name: what to do."""
