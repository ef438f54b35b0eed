"""Tests of transformers that do not pass on Cell2Text, each with its reason. `*` stands for any text."""

FAILURES = {
    "The test passes text alone and expects every input name back; cells are optional, so their names are missing. "
    "`test_processing.py` checks the names with cells.": ["test_model_input_names"],
    "The test's chat holds an image, which Cell2Text refuses. It is new in transformers 5.24.": [
        "test_chat_template_message_objects"
    ],
}

SKIPS = {
    "Needs an accelerator, which CI has not.": [
        "test_can_load_with_device_context_manager",
        "test_can_load_with_global_device_set",
        "test_cpu_offload",
        "test_disk_offload_*",
        "test_flash_attn_*",
        "test_flex_attention_with_grads",
        "test_model_parallelism",
        "test_sdpa_can_compile_dynamic",
        "test_sdpa_can_dispatch_on_flash",
    ],
    "Needs DeepSpeed or the kernels library, which download or compile.": [
        "test_kernels_can_load_without_crashing",
        "test_resize_*_with_deepspeed*",
    ],
    "Marked slow by transformers; `test_modeling.py` compiles the forward pass.": ["test_torch_compile_for_training"],
    "Cell2Text has no part of this kind: no experts, no encoder-decoder, no weight conversion, no fp32-only module, no "
    "sliding window, no rotary variant and no position table of its own (its decoder and encoder are transformers' own).": [
        "test_can_load_from_already_mapped_keys",
        "test_eager_matches_batched_and_grouped_inference_*",
        "test_encoder_decoder_loss_no_double_shift",
        "test_keep_in_fp32_modules*",
        "test_model_rope_with_partial_rotation",
        "test_moe_models_record_router_logits",
        "test_output_router_logits_from_config",
        "test_resize_position_vector_embeddings",
        "test_reverse_loading_mapping",
        "test_sliding_window_mask",
        "test_vision_axial_rope",
    ],
    "Composite models are tested by names of vision and audio towers only; `test_modeling.py` checks the dispatch of encoder "
    "and decoder.": ["test_sdpa_can_dispatch_composite_models", "test_sdpa_can_dispatch_non_composite_models"],
    "The processor reads cells and text: images, video and audio do not apply.": [
        "test_apply_chat_template_audio*",
        "test_apply_chat_template_*video*",
        "test_apply_chat_template_image_*",
        "test_args_overlap_kwargs",
        "test_chat_template_audio_*",
        "test_get_num_multimodal_tokens_matches_processor_call*",
        "test_if_input_has_mismatching_tokens_and_mm_data",
        "test_processor_text_has_no_visual",
        "test_processor_with_multiple_inputs",
        "test_replacement_offsets",
        "test_*_audio",
        "test_*_images",
        "test_*_videos",
    ],
    "The test model's chat template knows no tools.": ["test_apply_chat_template_tool_calls_no_content"],
}
