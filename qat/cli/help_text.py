"""What the help pages say of commands, keys and options."""

from __future__ import annotations

EXAMPLES = (
    ("qat run recipe=demo/w4a16_lsq", "train, quantize, export and score the model that ships with qat"),
    ("qat run recipe=demo/w4a16_lsq trainer.max_steps=50 scheme=w8a8", "the same with options changed"),
    ("qat run recipe=llama3_2_1b/w4a16_lsq 'data.train=[corpus/*.txt]'", "your model, your text"),
    ("qat train resume=outputs/demo/w4a16_lsq/latest", "go on after an interruption, bit for bit"),
    ("qat ptq model=hf model.path=models/my-llama scheme=w8a8", "quantize a model without training"),
    ("qat ptq model=hf model.path=models/llama-70b stream=true", "the same for a model larger than memory"),
    ("qat sensitivity recipe=demo/w4a16_lsq", "measure what each layer loses at 2, 3, 4 and 8 bits"),
    ("qat allocate run=outputs/demo/w4a16_lsq/latest budget=3.5", "choose each layer's bits by it, and write a scheme"),
    ("qat compare recipe=demo/w4a16_lsq", "every PTQ method, torchao's QAT and ours in one table, 3 seeds each"),
    ("qat export run=outputs/demo/w4a16_lsq/latest export=[gguf,onnx]", "write a finished run in other formats"),
    ("qat validate run=outputs/demo/w4a16_lsq/latest engine=[vllm,llama_cpp]", "load its exports in real engines"),
    ("qat deploy target=bedrock run=outputs/demo/w4a16_lsq/latest", "write what Bedrock imports, and check it"),
    ("qat serve run=outputs/demo/w4a16_lsq/latest chat_template=plain", "an API that the groq and openai SDKs talk to"),
    (
        "qat plan run=outputs/demo/w4a16_lsq/latest traffic.users=1e6",
        "what hosting costs, how long answers take",
    ),
    ("qat evaluate model=hf model.path=meta-llama/Llama-3.2-1B", "score a float model"),
    ("qat run recipe=demo/w4a16_lsq --cfg job", "show what would run"),
    ("qat train recipe=demo/w4a16_lsq optimizer.lr=1e-4,1e-3 --multirun", "sweep"),
)
OPTIONS = (
    ("--recipes DIR", "add a folder of your own recipes, DIR/<folder>/<recipe>.yaml"),
    ("--cfg job", "print every option with its value instead of running"),
    ("--multirun", "run every combination of comma-separated values"),
    ("-sc install=bash", 'tab completion: eval "$(qat -sc install=bash)" (also zsh, fish)'),
    ("--help, --version", "this page; the version"),
    ("--hydra-help", "options of Hydra, the library that reads the keys"),
)
KEYS = (
    ("recipe=demo/w4a16_lsq", "start from a recipe; every other key changes it"),
    ("scheme=w8a8", "pick a choice of a group"),
    ("scheme=mine/scheme.yaml", "a scheme file of your own, as those of configs/scheme are"),
    ("trainer.max_steps=500", "set an option of what is picked"),
    ("+phase@schedule.warmup=float_warmup", "add a phase named warmup to the precision schedule"),
    ("+ptq@baseline.ptq.mse=rtn_mse", "compare with one more PTQ algorithm, under the name mse"),
    ("export=[]", "write no export; export=[a,b] writes several"),
    ("engine=[transformers,vllm]", "engines that load every export whose format they know; [] for none"),
    ("rows=[gptq,recipe] seeds=[0,1,2]", "qat compare: which rows and seeds; tune=false keeps the recipe's rates"),
    ("'~logger'", "leave a group out (quoted for the shell); '~scheme' is float training"),
    ("run_dir=DIR", "where the result goes; default: outputs/<recipe or model>/<time>"),
    ("seed=1 evaluate.blocks=64", "keys besides the groups; also baseline.*, expect.*, rest_dtype, ..."),
)
KEYS_OF_A_FINISHED_RUN = (
    ("run=outputs/demo/w4a16_lsq/latest", "the run folder; everything else is as it was there, unless changed"),
    ("export=[a,b]", "which exports; default: qat export those of the run, qat validate all that lie in the folder"),
    ("overwrite=true", "qat export replaces an export that exists"),
    ("engine=[transformers,vllm]", "which engines qat validate loads them in"),
    ("engine.transformers.dtype=bfloat16", "how one of them computes"),
    ("trainer.device=cpu", "where qat validate computes"),
    ("evaluate.blocks=64", "how much text qat validate scores; other text than the run's is not stored"),
)
KEYS_OF_MIXED_PRECISION = {
    "sensitivity": (
        ("widths=[2,3,4,8]", "the bits at which every layer is measured; default: these"),
        ("granularity=layer", "what has one width: layer, shared_input (query, key and value are one) or block"),
        ("scheme=w4a16_g32", "what the grids are but for their bits, and which layers there are"),
        ("ptq=rtn_mse", "what sets the ranges: rtn or rtn_mse"),
        ("calibration_batches=8", "batches of the training split that it is measured on"),
        ("recipe=demo/w4a16_lsq", "whose model and data; or model=... data=..."),
        ("run_dir=DIR", "where the result goes; default: outputs/<recipe or model>/<time>"),
        ("trainer.device=cpu", "where it computes; trainer.block_size and trainer.batch_size count, too"),
    ),
    "allocate": (
        ("run=<run folder>", "what qat sensitivity measured"),
        ("budget=3.5", "bits a weight on average, scales not counted"),
        ("budget_bytes=500e3", "in its place: bytes of the whole quantized checkpoint"),
        ("overwrite=true", "replace the allocation of the same budget"),
    ),
}
KEYS_OF_HOSTING = {
    "deploy": (
        ("target=bedrock", "the host; target.<option>=... sets its options"),
        ("run=<run folder>", "the finished run to deploy"),
        ("folder=DIR", "in place of run: a folder to check or push as it lies, whoever made it"),
        ("action=prepare", "write what the host takes and check it (the default); needs run"),
        ("action=preflight", "check it again"),
        ("action=push", "check it, bring it to the host and try it there; goes on where an earlier push ended"),
        ("action=delete", "remove what push made"),
        ("--dry-run", "print every call of push and delete, send none"),
        ("overwrite=true", "prepare writes over what is there"),
        ("report=FILE", "where the checks go as JSON"),
    ),
    "serve": (
        ("run=<run folder>", "the finished run whose export is served"),
        (
            "engine=transformers",
            "whose own server answers: transformers, llama_cpp or vllm",
        ),
        ("format=<format>", "of the export; default: the one in the run that the engine loads"),
        ("chat_template=plain", "for a model without one: plain, or a file in Jinja"),
        ("name=NAME", "what clients call the model; default: the recipe of the run"),
        ("gateway.port=8000", "where the gateway listens; gateway.host needs an API key where it is not loopback"),
    ),
    "plan": (
        ("run=<run folder>", "the finished run whose size counts; or parameters=8e9"),
        ("traffic=daily", "what is asked and when; traffic.<option>=... sets its options"),
        ("traffic=trace traffic.file=<CSV>", "what was asked: a file with time,prompt_tokens,output_tokens"),
        (
            "pricing=[bedrock_us_east_1,groq,vllm_l4]",
            "hosts; pricing.<name>.<option>=... changes a price",
        ),
        ("out=DIR", "where the page and the numbers go; default: outputs/plan/<time>"),
        ("seed=0", "of the traffic"),
    ),
}
KEYS_OF_BENCH = (
    ("size=8GB", "weights of the synthetic model: Llama-shaped, random, bfloat16"),
    ("shard_size=1GB", "of each of its files"),
    ("scheme=w4a16_g128", "what it is quantized to"),
    ("rounds=3", "how often to copy its files and to export it, in turn"),
    ("bench_dir=DIR", "a folder on the disk to measure; what is written there is removed"),
    ("json=FILE", "where to write the numbers"),
)
# The run folder that a command takes, or can take.
FOLDERS = {
    "run": "[resume=<run folder>] ",
    "train": "[resume=<run folder>] ",
    "ptq": "[resume=<run folder>] ",
    "evaluate": "[run=<run folder>] ",
    "compare": "[resume=<run folder>] ",
    "sensitivity": "[resume=<run folder>] ",
    "allocate": "run=<run folder> budget=<bits a weight> ",
    "export": "run=<run folder> ",
    "validate": "run=<run folder> ",
    "deploy": "target=<host> run=<run folder> [action=prepare|preflight|push|delete] ",
    "serve": "run=<run folder> ",
    "plan": "run=<run folder> ",
}
