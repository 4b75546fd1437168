//! What only NVRTC can show. Without it these tests show as ignored, with the reason.

use libtest_mimic::{Arguments, Trial};
use theria_gpu_fwd::{Architecture, Compiler, CubinCache, Error, Key, Origin, Source};

const TEXT: &str = r#"
extern "C" __global__ void scale(float *x, float by, int n) {
    __shared__ float tile[64];
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    tile[threadIdx.x % 64] = i < n ? x[i] : 0.0f;
    __syncthreads();
    if (i < n) x[i] = by * tile[threadIdx.x % 64];
}
"#;
const SOURCE: Source = Source { name: "scale.cu", text: TEXT, headers: &[] };

fn main() {
    let arguments = Arguments::from_args();
    let missing = Compiler::open().err();
    let test = |name: &str, run: fn(&Compiler)| {
        let ignored = missing.is_some();
        let name = missing.as_ref().map_or(name.to_owned(), |error| {
            let reason = error.to_string();
            format!("{name} ({})", reason.split(':').next().unwrap_or_default())
        });
        let body = move || {
            run(&Compiler::open()?);
            Ok(())
        };
        Trial::test(name, body).with_ignored_flag(ignored)
    };
    let trials = vec![
        test("a_kernel_compiles_for_every_architecture_that_theria_serves", every_architecture),
        test("a_kernel_that_is_wrong_is_an_error_with_its_line", wrong_source),
        test("an_option_that_is_unknown_is_an_error", wrong_option),
        test("an_architecture_that_is_unknown_is_an_error_that_lists_the_known_ones", wrong_architecture),
        test("a_kept_kernel_is_the_compiled_one", kept),
    ];
    libtest_mimic::run(&arguments, trials).exit();
}

fn every_architecture(compiler: &Compiler) {
    for architecture in [Architecture::SM_80, Architecture::SM_89, Architecture::SM_90A] {
        let made = compiler.compile(SOURCE, architecture, &[]).unwrap();
        assert_eq!(&made.cubin[..4], b"\x7fELF");
        let report = made.report();
        assert_eq!(report.len(), 1, "{architecture}: {}", made.log);
        assert_eq!(report[0].kernel, "scale");
        assert!(report[0].registers > 0 && report[0].shared >= 256, "{report:?}");
        assert_eq!((report[0].spill_stores, report[0].serialised), (0, false));
    }
}

fn wrong_source(compiler: &Compiler) {
    let error = compiler
        .compile(Source { text: "\n\nthis is no kernel", ..SOURCE }, Architecture::SM_80, &[])
        .unwrap_err();
    let Error::Compilation { log, .. } = &error else { panic!("{error}") };
    assert!(log.contains("(3): error"), "{log}");
}

fn wrong_option(compiler: &Compiler) {
    let error = compiler.compile(SOURCE, Architecture::SM_80, &["--no-such-option".to_owned()]).unwrap_err();
    assert!(matches!(error, Error::Compilation { .. }), "{error}");
    let error = compiler.compile(SOURCE, Architecture::SM_80, &["-DX=\0".to_owned()]).unwrap_err();
    assert!(matches!(error, Error::ZeroByte { .. }), "{error}");
}

fn wrong_architecture(compiler: &Compiler) {
    let ancient = Architecture { number: 35, specific: false };
    let error = compiler.compile(SOURCE, ancient, &[]).unwrap_err();
    assert!(error.to_string().contains("sm_35") && error.to_string().contains("sm_90"), "{error}");
}

fn kept(compiler: &Compiler) {
    let folder = std::env::temp_dir().join(format!("theria-nvrtc-{}", std::process::id()));
    let cache = CubinCache::at(&folder);
    let key = Key::new(compiler, SOURCE, Architecture::SM_90A, &[]);
    let compile = || Ok(compiler.compile(SOURCE, Architecture::SM_90A, &[])?.cubin);
    let (compiled, origin, _) = cache.get(key, compile).unwrap();
    assert_eq!(origin, Origin::Compiled);
    let (again, origin, _) = cache.get(key, || panic!("kept")).unwrap();
    std::fs::remove_dir_all(&folder).unwrap();
    assert_eq!((again, origin), (compiled, Origin::Disk));
}
