/* What each family's row of the table calls to read its own part of config.json. Private to the
 * table (arch.c, arch_read.c). Everything that every family has is read before. */
#ifndef DF_MODEL_ARCH_READ_H
#define DF_MODEL_ARCH_READ_H

#include "arch.h"

df_status read_llama(config_source from, model_config *config) DF_MUST_CHECK;
df_status read_mistral(config_source from, model_config *config) DF_MUST_CHECK;
df_status read_qwen2(config_source from, model_config *config) DF_MUST_CHECK;
df_status read_qwen3(config_source from, model_config *config) DF_MUST_CHECK;
df_status read_gemma(config_source from, model_config *config) DF_MUST_CHECK;
df_status read_gemma2(config_source from, model_config *config) DF_MUST_CHECK;
df_status read_gemma3(config_source from, model_config *config) DF_MUST_CHECK;
df_status read_gpt2(config_source from, model_config *config) DF_MUST_CHECK;
df_status read_gpt_neo(config_source from, model_config *config) DF_MUST_CHECK;
df_status read_gpt_neox(config_source from, model_config *config) DF_MUST_CHECK;
df_status read_opt(config_source from, model_config *config) DF_MUST_CHECK;

#endif
