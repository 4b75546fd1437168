//! NVRTC: CUDA C++ to machine code, without a GPU.
//!
//! cudarc's safe interface stops at PTX and drops what the compiler says on success. A cubin for the
//! real architecture is what is loaded here: a driver refuses PTX that is newer than itself, and what
//! the assembler says (registers, spills) is part of what a kernel is judged by.
#![allow(unsafe_code)] // NVRTC is a C library; each block says why it is sound

use std::ffi::{CString, c_char, c_int};

use cudarc::nvrtc::sys::{self, nvrtcProgram, nvrtcResult};

use crate::report::Report;
use crate::{Architecture, Error, Result, Source};

/// The run-time compiler of this machine.
#[derive(Clone, Debug)]
pub struct Compiler {
    version: (u32, u32),
    architectures: Vec<u32>,
}

/// A compiled source.
#[derive(Clone, Debug)]
pub struct Compiled {
    /// Machine code.
    pub cubin: Vec<u8>,
    /// What compiler and assembler said.
    pub log: String,
}

impl Compiled {
    /// What the assembler says of each kernel.
    pub fn report(&self) -> Vec<Report> {
        Report::parse(&self.log)
    }
}

/// Options that every kernel is compiled with: the language, a report of what it needs, and no cache of
/// the compiler's own: where a driver is present it would answer a second time without a report.
const OPTIONS: [&str; 3] = ["--std=c++17", "--ptxas-options=-v", "--no-cache"];

impl Compiler {
    /// Finds NVRTC.
    pub fn open() -> Result<Self> {
        // SAFETY: looks for the library and calls nothing in it.
        if !unsafe { sys::is_culib_present() } {
            return Err(Error::NoCompiler);
        }
        let (mut major, mut minor, mut count) = (0, 0, 0);
        // SAFETY: the library is there, and both pointers are to live integers.
        check("nvrtcVersion", unsafe { sys::nvrtcVersion(&raw mut major, &raw mut minor) })?;
        // SAFETY: as above.
        check("nvrtcGetNumSupportedArchs", unsafe { sys::nvrtcGetNumSupportedArchs(&raw mut count) })?;
        let mut architectures = vec![0; usize::try_from(count).unwrap_or(0)];
        // SAFETY: the list has room for as many numbers as the call before announced.
        check("nvrtcGetSupportedArchs", unsafe { sys::nvrtcGetSupportedArchs(architectures.as_mut_ptr()) })?;
        let architectures = architectures.into_iter().filter_map(|n: c_int| u32::try_from(n).ok()).collect();
        let number = |n: c_int| u32::try_from(n).unwrap_or(0);
        Ok(Self { version: (number(major), number(minor)), architectures })
    }

    /// Major and minor number.
    pub fn version(&self) -> (u32, u32) {
        self.version
    }

    /// Architectures that it compiles for, as numbers (90 for `sm_90` and `sm_90a`).
    pub fn architectures(&self) -> &[u32] {
        &self.architectures
    }

    /// Options of a compilation, those that every kernel has included.
    pub fn options(architecture: Architecture, options: &[String]) -> Vec<String> {
        let mut all = vec![format!("--gpu-architecture={architecture}")];
        all.extend(OPTIONS.map(str::to_owned));
        all.extend_from_slice(options);
        all
    }

    /// Compiles a source with its headers: no file is read beside them.
    pub fn compile(
        &self,
        source: Source,
        architecture: Architecture,
        options: &[String],
    ) -> Result<Compiled> {
        if !self.architectures.contains(&architecture.number) {
            let (known, version) = (self.architectures.clone(), self.version);
            return Err(Error::UnknownArchitecture { architecture, known, version });
        }
        let c_string = |text: &str, what: &str| {
            CString::new(text).map_err(|_| Error::ZeroByte { what: what.to_owned() })
        };
        let text = c_string(source.text, "the source")?;
        let name = c_string(source.name, "the name of the source")?;
        let header = |part: fn(&(&'static str, &'static str)) -> &'static str| {
            source.headers.iter().map(|header| c_string(part(header), "a header")).collect::<Result<Vec<_>>>()
        };
        let (names, texts) = (header(|header| header.0)?, header(|header| header.1)?);
        let options: Vec<CString> = Self::options(architecture, options)
            .iter()
            .map(|option| c_string(option, &format!("the option {option:?}")))
            .collect::<Result<_>>()?;
        let options: Vec<*const c_char> = options.iter().map(|option| option.as_ptr()).collect();

        let program = Program::new(&text, &name, &names, &texts)?;
        // SAFETY: the program lives, and so do the strings that the list points to.
        let outcome =
            unsafe { sys::nvrtcCompileProgram(program.0, options.len() as c_int, options.as_ptr()) };
        let log = program.log()?;
        if outcome != nvrtcResult::NVRTC_SUCCESS {
            return Err(Error::Compilation { architecture, code: format!("{outcome:?}"), log });
        }
        Ok(Compiled { cubin: program.cubin()?, log })
    }
}

fn check(call: &'static str, outcome: nvrtcResult) -> Result<()> {
    match outcome {
        nvrtcResult::NVRTC_SUCCESS => Ok(()),
        code => Err(Error::Nvrtc { call, code: format!("{code:?}") }),
    }
}

/// A program of NVRTC, destroyed when it goes.
struct Program(nvrtcProgram);

impl Program {
    fn new(text: &CString, name: &CString, names: &[CString], texts: &[CString]) -> Result<Self> {
        let mut program = std::ptr::null_mut();
        let pointers = |strings: &[CString]| strings.iter().map(|s| s.as_ptr()).collect::<Vec<_>>();
        let (texts, names) = (pointers(texts), pointers(names));
        // SAFETY: all strings end in a zero byte, and both lists are as long as is said.
        let outcome = unsafe {
            sys::nvrtcCreateProgram(
                &raw mut program,
                text.as_ptr(),
                name.as_ptr(),
                texts.len() as c_int,
                texts.as_ptr(),
                names.as_ptr(),
            )
        };
        check("nvrtcCreateProgram", outcome)?;
        Ok(Self(program))
    }

    fn log(&self) -> Result<String> {
        let mut size = 0;
        // SAFETY: the program lives, and the pointer is to a live integer.
        check("nvrtcGetProgramLogSize", unsafe { sys::nvrtcGetProgramLogSize(self.0, &raw mut size) })?;
        let mut log = vec![0_u8; size];
        // SAFETY: the buffer has the size that the call before announced.
        check("nvrtcGetProgramLog", unsafe { sys::nvrtcGetProgramLog(self.0, log.as_mut_ptr().cast()) })?;
        log.truncate(log.iter().position(|byte| *byte == 0).unwrap_or(log.len()));
        Ok(String::from_utf8_lossy(&log).into_owned())
    }

    fn cubin(&self) -> Result<Vec<u8>> {
        let mut size = 0;
        // SAFETY: the program lives and was compiled for a real architecture.
        check("nvrtcGetCUBINSize", unsafe { sys::nvrtcGetCUBINSize(self.0, &raw mut size) })?;
        let mut cubin = vec![0_u8; size];
        // SAFETY: the buffer has the size that the call before announced.
        check("nvrtcGetCUBIN", unsafe { sys::nvrtcGetCUBIN(self.0, cubin.as_mut_ptr().cast()) })?;
        Ok(cubin)
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // SAFETY: created by `new` and destroyed here only. What it says no longer matters.
        let _ = unsafe { sys::nvrtcDestroyProgram(&raw mut self.0) };
    }
}
