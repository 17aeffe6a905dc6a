"""Parameters that there are no more, and what is there instead: whoever still sets one is told."""

_WHOLE_MODEL = "generation follows the whole model, without guidance: leave it out"
_EXPLOSION = "a training stops when its error is 20 times its lowest: leave it out"
_DERIVED = "it follows from the frames' size and the machine: leave it out"
_CLOCK = "a picture is drawn every three minutes: leave it out"
_CHECKPOINTS = "a checkpoint is written every ten minutes, and after fit.checkpoint_every steps: leave it out"
_SIZE = "it is part of collect.size now: [height, width]"
_RANDOM = "it is random_actions now, for heuristic and policy alike"
_IN_TRAINER = "it is a constant in oniris_core/training/{}/trainer.py now, with the value it had: leave it out"
_VAE, _WORLD = _IN_TRAINER.format("vae"), _IN_TRAINER.format("world")
_SAMPLER = "it is a constant in oniris_core/sampling now, with the value it had: leave it out"
_SERVER = "it is a constant in oniris_core/play now, with the value it had: leave it out"

GONE: dict[tuple[str, str], str] = {
    ("collect", "recording_action_leads_to"): "it is recording_action_lag now, in frames (same_frame is -1)",
    ("collect", "import_env_module"): "import_code allows ids of the form module:Env too",
    ("collect", "height"): _SIZE,
    ("collect", "width"): _SIZE,
    ("collect", "frames_per_action_max"): "frames_per_action says both now: [least, most]",
    ("collect", "random_share"): "what heuristic_share and policy_share leave is played at random: leave it out",
    ("collect", "heuristic_noise"): _RANDOM,
    ("collect", "policy_noise"): _RANDOM,
    ("collect", "action_noise"): "noise is random_actions now; Gaussian noise a policy can add itself: leave it out",
    ("collect", "short_frames"): "a note says how many episodes have fewer than 48 frames: leave it out",
    ("train_vae", "kernel"): _VAE,
    ("train_vae", "noise_max"): _VAE,
    ("train_vae", "motion_share"): _VAE,
    ("train_vae", "final_lr_share"): _VAE,
    ("train_vae", "clip_norm"): _VAE,
    ("train_vae", "ema_width"): _VAE,
    ("train_vae", "nll_weight"): _VAE,
    ("train_vae", "nll_beta"): _VAE,
    ("train_vae", "worst_weight"): _VAE,
    ("train_vae", "worst_share"): "it is 0.02 where train_vae.crop is set, else 0.005: leave it out",
    ("train_vae", "kl_weight"): _VAE,
    ("train_vae", "adversarial_start"): "discriminators set in after half of the steps: leave it out",
    ("train_vae", "discriminator_channels"): _VAE,
    ("train_vae", "discriminator_lr"): _VAE,
    ("train_vae", "perceptual_weight"): "it is 1 where perceptual_path is set: leave it out",
    ("train_vae", "eval_clips"): "64 held-out clips are measured, or as many as there are: leave it out",
    ("train_vae", "checkpoint_minutes"): _CHECKPOINTS,
    ("train_vae", "explosion"): _EXPLOSION,
    ("train_vae", "dashboard_every"): _CLOCK,
    ("encode", "chunk_latents"): _DERIVED,
    ("encode", "batch"): _DERIVED,
    ("encode", "collapsed_share"): "it is 0.05: leave it out",
    ("train", "channel_mult"): "channels says those of each resolution now: [16, 32] for 16 and [1, 2]",
    ("train", "start_share"): _WORLD,
    ("train", "end_share"): _WORLD,
    ("train", "cooldown_share"): _WORLD,
    ("train", "context_noise"): _WORLD,
    ("train", "ema_snapshots"): _WORLD,
    ("train", "checkpoint_minutes"): _CHECKPOINTS,
    ("train", "explosion"): _EXPLOSION,
    ("train", "dashboard_every"): _CLOCK,
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
    ("render", "batch"): _DERIVED,
    ("render", "probes"): "the answers of 3 are averaged: leave it out",
    ("render", "action_probes"): "the answers of 3 are averaged: leave it out",
    ("render", "videos"): "6 episodes are shown: leave it out",
    ("render", "sigma_min"): "the last noise level is always 0.05, render.sigma_max is the first: leave it out",
    ("render", "rho"): _SAMPLER,
    ("render", "context_sigma"): _SAMPLER,
    ("render", "seed_offset"): "for other samples of the same model render with --seed: leave it out",
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
    ("play", "episodes"): _SERVER,
    (
        "play",
        "context_latents",
    ): "a dream starts from render.context_latents, unless the player says otherwise: leave it out",
    ("play", "history"): _SERVER,
    ("play", "moments"): _SERVER,
    ("play", "keep_minutes"): _SERVER,
    ("play", "saves"): _SERVER,
    ("policy", "context_latents"): "a dream always starts from 4 true latent frames: leave it out",
    ("play", "import_code"): "it is render.import_code now, or the switch --import-code",
}
"""By section and name: what to do."""
