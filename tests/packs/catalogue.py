"""Which packs are tried, in which version, and what is tried of each."""

from __future__ import annotations

from dataclasses import dataclass

from trials import (
    UNETS,
    Trial,
    context_windows,
    image_prompt,
    own_sampler,
    reference,
    regions,
    simple,
)

COMMIT_SHOWN = 12


@dataclass(frozen=True)
class Pack:
    """A repository on GitHub at one commit."""

    repository: str
    commit: str
    trials: tuple[Trial, ...]

    @property
    def name(self) -> str:
        """Without its owner."""
        return self.repository.partition("/")[2]

    @property
    def folder(self) -> str:
        """What its folder is called in the one that has them all."""
        return f"{self.name}-{self.commit[:COMMIT_SHOWN]}"


_ALL_OF_A_RUN = {"start_at_sigma": 1000.0, "end_at_sigma": 0.0}
_GUIDED = {"unet_block": "middle", "unet_block_id": 0, "scale": 3.0}
_TILES = {"tile_width": 96, "tile_height": 96, "tile_overlap": 32, "tile_batch_size": 2}
_RAUNET = {
    "time_mode": "percent",
    "start_time": 0.0,
    "end_time": 0.9,
    "upscale_mode": "bicubic",
    "ca_start_time": 0.0,
    "ca_end_time": 0.6,
    "ca_upscale_mode": "bicubic",
}
_NAG = {"nag_scale": 5.0, "nag_tau": 2.5, "nag_alpha": 0.25, "nag_sigma_end": 0.0}

PACKS = (
    Pack(
        "cubiq/ComfyUI_IPAdapter_plus",
        "9d076a3df0d2763cef5510ec5ab807f6632c39f5",
        (Trial("IPAdapterEmbeds", ("sdxl, wide text", "sd15"), image_prompt),),
    ),
    Pack(
        "pamparamm/sd-perturbed-attention",
        "904319bff623b185f15047e231a446d615ee48c6",
        (
            simple("PerturbedAttention", **_GUIDED),
            simple("SmoothedEnergyGuidanceAdvanced", **_GUIDED, blur_sigma=2.0),
            simple("SlidingWindowGuidanceAdvanced", tile_width=96, tile_height=96, tile_overlap=32, sigma_end=-1.0),
            simple("PLADIS", (*UNETS, "sd3"), scale=2.0),
            simple("TokenPerturbationGuidance", scale=3.0),
            simple("MomentumGuidance", (*UNETS, "sd3"), momentum=0.5, ema=0.6),
        ),
    ),
    Pack(
        "shiimizu/ComfyUI-TiledDiffusion",
        "a155b1bac39147381aeaa52b9be42e545626a44f",
        tuple(
            Trial(f"TiledDiffusion, {method}", UNETS, simple("TiledDiffusion", method=method, **_TILES).apply)
            for method in ("MultiDiffusion", "Mixture of Diffusers", "SpotDiffusion")
        ),
    ),
    Pack(
        "Kosinkadink/ComfyUI-AnimateDiff-Evolved",
        "d8d163cd90b1111f6227495e3467633676fbb346",
        (Trial("ADE_UseEvolvedSampling, context windows", UNETS, context_windows),),
    ),
    Pack(
        "Kosinkadink/ComfyUI-Advanced-ControlNet",
        "9e60d8a9c8016c5315063aa7af66b321a0444df7",
        tuple(
            Trial(f"ACN_ReferenceControlNet, {kind}", UNETS, reference(kind))
            for kind in ("reference_attn", "reference_adain", "reference_attn+adain")
        ),
    ),
    Pack(
        "chengzeyi/Comfy-WaveSpeed",
        "8253745127785d820cff0a9621d1537a5aae5424",
        (
            simple(
                "ApplyFBCacheOnModel",
                (*UNETS, "sd3", "flux"),
                object_to_patch="diffusion_model",
                residual_diff_threshold=0.4,
                start=0.0,
                end=1.0,
                max_consecutive_cache_hits=-1,
            ),
        ),
    ),
    Pack(
        "blepping/comfyui_jankhidiffusion",
        "54d60e0d187a391682633ab5b6211fd8fe4d73bb",
        (
            simple(
                "ApplyMSWMSAAttention",
                input_blocks="4,5",
                middle_blocks="",
                output_blocks="3,4,5",
                time_mode="percent",
                start_time=0.0,
                end_time=1.0,
            ),
            simple(
                "ApplyRAUNet",
                input_blocks="3",
                output_blocks="5",
                ca_input_blocks="4",
                ca_output_blocks="4",
                **_RAUNET,
            ),
        ),
    ),
    Pack(
        "blepping/ComfyUI-bleh",
        "b889683c425f0870a6192606438fecb7a5bda8b9",
        (
            simple(
                "BlehDeepShrink",
                commasep_block_numbers="3",
                downscale_factor=2.0,
                start_percent=0.0,
                start_fadeout_percent=1.0,
                end_percent=0.6,
                downscale_after_skip=True,
                downscale_method="bicubic",
                upscale_method="bicubic",
                antialias_downscale=False,
            ),
            simple(
                "BlehHyperTile",
                seed=1,
                tile_size=32,
                swap_size=2,
                max_depth=2,
                scale_depth=False,
                interval=1,
                # the model's timesteps, which count down
                start_step=1000,
                end_step=0,
            ),
            simple(
                "BlehBlockCFG",
                commasep_block_numbers="i4,m0,o4",
                scale=0.5,
                start_percent=0.0,
                end_percent=1.0,
                skip_mode=False,
                apply_to="uncond",
            ),
        ),
    ),
    Pack(
        "ethansmith2000/comfy-todo",
        "ddd75a3e62e0a67f0b9be839a9916b553041494f",
        (simple("ToDoPatchModel", downsample_factor_depth_1=2.0, downsample_factor_depth_2=2.0),),
    ),
    Pack(
        "laksjdjf/attention-couple-ComfyUI",
        "87304616435c59e1724ace024280705d3ae46611",
        (Trial("Attention couple", ("sd15",), regions),),
    ),
    Pack(
        "Extraltodeus/pre_cfg_comfy_nodes_for_ComfyUI",
        "967b1816462a3f9834887a6295e2daea838d0b62",
        (
            simple("Pre CFG PAG", scale=0.5, **_ALL_OF_A_RUN),
            simple("Pre CFG zero attention", do_on="uncond", mix_scale=1.5, **_ALL_OF_A_RUN),
            simple("Pre CFG sharpening", (*UNETS, "sd3"), do_on="both", scale=0.75, **_ALL_OF_A_RUN),
            simple("Shape attention", scale=1.5),
            simple("Excellent attention", scale=2.0, enabled=True),
        ),
    ),
    Pack(
        "styler00dollar/ComfyUI-deepcache",
        "14070eb50d82559336cc164c47ef47005c2c405d",
        (simple("DeepCache", cache_interval=2, cache_depth=1, start_step=0, end_step=1000),),
    ),
    Pack(
        "ChenDarYen/ComfyUI-NAG",
        "ef8a641be08983cf5f06669f70719b6eecce3c7f",
        (Trial("KSamplerWithNAG", (*UNETS, "sd3", "flux"), own_sampler("KSamplerWithNAG", **_NAG)),),
    ),
)
